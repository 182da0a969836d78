"""Record a person's play in any X11 window (docs/guides/recording-people.md).

    python launch/record_window.py --config.window="Xonotic" --config.out=runs/play --config.player=p1 \
        --config.licence=CC-BY-4.0 --config.consent="I agree that my play is recorded and models are trained on it."

The recordings are event tables: `launch/prepare.py --source=event_table` makes a dataset of them.
"""

from ml_collections import ConfigDict

# Keys of most first-person games. Keys outside the list are never stored, so a chat message cannot be read from them.
GAME_KEYS = (
    "w", "a", "s", "d", "q", "e", "r", "f", "space", "left_shift", "left_control", "1", "2", "3", "4", "5", "6", "7",
    "8", "9", "mouse.left", "mouse.right", "mouse.middle",
)  # fmt: skip


def get_config() -> ConfigDict:
    config = ConfigDict()

    # Window to record: a part of its title, or its number (0x...). Empty: list all windows.
    config.window = ""
    # X display of the window, such as ":0". Empty: that of the environment.
    config.display = ""
    # Folder of the recordings.
    config.out = ""

    # Name or pseudonym of the person who plays: recordings of a player are kept in one split.
    config.player = ""
    # Words of the person who plays, that they agree to be recorded, and for which use. Stored with name and time.
    config.consent = ""
    # Licence of the recordings, such as CC-BY-4.0.
    config.licence = ""
    # Whether models may be trained on the recordings; training refuses them otherwise.
    config.trainable = True
    # Name of the game; may be empty.
    config.game = ""

    # Keys and mouse buttons that are stored; the mouse's movement and wheel always are.
    config.recorded_keys = GAME_KEYS
    # Keys that open a text field in the game: from there to Enter or Escape nothing is recorded.
    config.text_keys = ("t", "y", "slash", "enter")
    # Key that pauses and resumes by hand; empty: none.
    config.pause_key = "pause"

    # Frames per second that are taken; each keeps its own time.
    config.frames_per_second = 20.0
    # Height of the frames in pixels, which higher windows are reduced to; 0: that of the window.
    config.height = 360
    # Length of a recording in seconds, after which a new one begins.
    config.max_seconds = 300.0
    # Length of the session in seconds; 0: until Ctrl-C.
    config.seconds = 0.0
    return config
