"""Label videos with an inverse dynamics model (fields: configs/label.py)."""

from vpt_jax import command_line
from vpt_jax.checkpoints import CheckpointError
from vpt_jax.data.errors import DatasetDamagedError, OpenFilesError
from vpt_jax.labelling.job import LabelError, label

MISTAKES = (LabelError, CheckpointError, FileNotFoundError, DatasetDamagedError, OpenFilesError)

if __name__ == "__main__":
    command_line.run(label, "configs/label.py", MISTAKES)
