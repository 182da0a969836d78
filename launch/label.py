"""Label videos with an inverse dynamics model (fields: configs/label.py).

python launch/label.py --config.videos=VIDEOS --config.idm=RUN --config.out=DATASET
"""

from vpt_jax.labelling.job import label
from vpt_jax.system import command_line

if __name__ == "__main__":
    command_line.run(label, "configs/label.py")
