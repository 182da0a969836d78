"""Data sets from what is found: downloads, the clean filter and the validation of data."""
