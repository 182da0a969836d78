"""Bridges from other recorders' formats to datasets, and from labels to other formats; no format knows another."""
