"""What is in a dataset and what is wrong with it: figures, checks, pictures, and the difference of two."""
