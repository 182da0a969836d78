"""An inverse dynamics model over whole videos: any videos in, a dataset with predicted labels out."""


class LabelError(Exception):
    """Labels that cannot be made as asked; the message says what to do."""
