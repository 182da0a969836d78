"""Label videos with an inverse dynamics model (fields: configs/label.py)."""

from vpt_jax import command_line
from vpt_jax.checkpoints import CheckpointError
from vpt_jax.labelling.job import LabelError, label

if __name__ == "__main__":
    command_line.run(label, "configs/label.py", (LabelError, CheckpointError, FileNotFoundError))
