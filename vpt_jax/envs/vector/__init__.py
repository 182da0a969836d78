"""Environments in processes of their own, stepped together, here or on other machines."""
