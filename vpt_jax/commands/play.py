"""Play episodes with a policy: writes a video of each, with keys, mouse and value overlaid; optionally opens a window.

    python launch/play.py --config.policy=runs/mine --config.out=runs/films
    python launch/play.py --config=configs/play.py:video --config.policy=runs/foundation-2x --config.out=runs/films \
        --config.game.arguments.path=VIDEO

The second command shows the actions of a policy on a video. When the program is stopped or its window is closed, it
finalizes the current film. Fields: configs/play.py.
"""

from vpt_jax.programs.play import play
from vpt_jax.system import command_line


def run() -> None:
    """Run the command."""
    command_line.run(play, "play", __name__)
