"""From recordings to batches: the codec of stored frames, the dataset on disk, and the streams that read it."""
