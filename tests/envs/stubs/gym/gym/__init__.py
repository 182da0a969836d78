"""Stub of the old gym, which MineRL needs."""
