"""Turn a folder of recordings into a dataset; what each field means stands in configs/prepare.py.

python launch/prepare.py --config=configs/prepare.py --config.recordings=RECORDINGS --config.out=DATASET
"""

from vpt_jax import command_line
from vpt_jax.data.beam import BeamMissingError
from vpt_jax.data.prepare import PrepareError, prepare

if __name__ == "__main__":
    command_line.run(prepare, "configs/prepare.py", (PrepareError, BeamMissingError))
