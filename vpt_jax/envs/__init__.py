"""Games behind the human interface: Gymnasium environments that take the MineRL key dict and give back a picture."""


class RecordError(Exception):
    """Recordings that cannot be made as asked, or a game that is not installed; the message says what to do."""
