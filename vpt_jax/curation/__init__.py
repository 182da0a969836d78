"""Data curation: downloads, the clean filter, and the validation of datasets."""
