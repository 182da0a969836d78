"""How fast the parts are on this machine: frames/s, milliseconds and peak memory, with versions and settings.

    python launch/bench.py loader --data=DATASET
    python launch/bench.py prepare --recordings=RECORDINGS
    python launch/bench.py decode --recordings=RECORDINGS/train
    python launch/bench.py train_step --preset=1x --batch=2 --length=16
    python launch/bench.py gradient --preset=1x --batch=1 --length=16 --against=torch
    python launch/bench.py ceiling --preset=2x --dtype=bfloat16
    python launch/bench.py precision --preset=1x --dtype=bfloat16
    python launch/bench.py act --preset=1x --batch=1
    python launch/bench.py label
    python launch/bench.py rollout

`loader` reads and decodes a dataset as training does; `prepare` makes one of recordings, by one process, by one a core
and by Beam; `decode` compares image codecs on frames of recordings. `train_step` is one update on random frames,
`forward` and `gradient` are its parts, `act` is one frame after another, as in play; with --against=torch the last
three are compared with the same policy in PyTorch. `precision` says how far a policy in another type or with faster
products is from the same in float32. `ceiling` is what the machine gives a large matrix product and the policy's
convolutions. `label` compares the two ways to label long videos by an inverse dynamics model. `rollout` plays the
embedded game with the demo's policy, in ever more processes. What is compared with one another runs in turns. Without
--data or --recordings, a little play of the embedded game is recorded and prepared first, at 128x128, under --workdir.
"""

import importlib
import sys

from absl import app, logging
from benches.measuring import machine, print_table

from vpt_jax.system.command_line import refuse_remote_flags
from vpt_jax.system.paths import RemotePathError

BENCHES = {  # and the file in launch/benches/ that has them: each needs libraries of its own
    "loader": "data", "decode": "data", "prepare": "data", "train_step": "policy", "forward": "policy",
    "gradient": "policy", "act": "policy", "ceiling": "policy", "precision": "policy", "label": "labelling",
    "rollout": "playing",
}  # fmt: skip


def main(arguments: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    what = arguments[1]
    benches = sys.modules[f"benches.{BENCHES[what]}"]
    try:
        refuse_remote_flags()
        print(machine())
        print_table(getattr(benches, what)())
    except (RemotePathError, *benches.ERRORS) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    if sys.argv[1:2] == [] or sys.argv[1] not in BENCHES:
        sys.exit(f"error: say what to measure: python launch/bench.py {{{','.join(BENCHES)}}} [--help]")
    importlib.import_module(f"benches.{BENCHES[sys.argv[1]]}")  # its flags have to be known before they are read
    app.run(main)
