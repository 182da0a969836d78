"""Label videos with an inverse dynamics model (fields: configs/label.py).

python launch/label.py --config.videos=VIDEOS --config.idm=RUN --config.out=DATASET
"""

from vpt_jax.labelling.job import label
from vpt_jax.system import command_line


def run() -> None:
    """Run the command."""
    command_line.run(label, "label", __name__)
