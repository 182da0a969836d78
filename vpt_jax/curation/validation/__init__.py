"""Dataset statistics and validation: figures, checks, pictures, and the difference between two datasets."""
