"""Export of datasets and labels to formats that other people's tools read."""
