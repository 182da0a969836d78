"""An inverse dynamics model over whole videos: any videos in, a dataset with predicted labels out."""
