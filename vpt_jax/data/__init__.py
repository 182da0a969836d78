"""Data pipeline from recordings to batches: frame codec, dataset on disk, and the streams that read it."""
