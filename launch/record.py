"""Record play of the embedded game; what each field means stands in the config.

python launch/record.py --config=configs/record.py:demo --config.out=RECORDINGS
"""

from vpt_jax import command_line
from vpt_jax.envs.recorder import RecordError, record

if __name__ == "__main__":
    command_line.run(record, "configs/record.py", (RecordError,))
