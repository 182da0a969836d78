"""Benchmarks of the library on this machine: frames/s, milliseconds and peak memory, with versions and settings.

    python launch/bench.py loader --data=DATASET
    python launch/bench.py prepare --recordings=RECORDINGS
    python launch/bench.py decode --recordings=RECORDINGS/train
    python launch/bench.py train_step --preset=1x --batch=2 --length=16
    python launch/bench.py train_step --preset=idm:tiny --batch=1 --length=16 --remat=stacks --trace=FOLDER
    python launch/bench.py gradient --preset=1x --batch=1 --length=16 --against=torch
    python launch/bench.py ceiling --preset=2x --dtype=bfloat16
    python launch/bench.py precision --preset=1x --dtype=bfloat16
    python launch/bench.py act --preset=1x --batch=1
    python launch/bench.py label
    python launch/bench.py rollout
    python launch/bench.py start --data=DATASET --train=foundation:demo
    python launch/bench.py compile_step --train=foundation:500m --dtype=bfloat16
    python launch/bench.py sizes --presets=1m,5m,idm:5m --sizes=64,128 --batch=16 --length=128 --markdown

`loader` reads and decodes a dataset as training does; `prepare` makes a dataset from recordings, with one process, with
one per core and with Beam; `decode` compares image codecs on frames of recordings. `train_step` is one update on random
frames, of a policy or an inverse dynamics model; with --trace it prints the largest kernels of a trace. `forward` and
`gradient` are its parts for a policy, `act` is one frame after another, as in a rollout; with --against=torch these
three are compared with the same policy in PyTorch, eager and by `torch.compile`. `temporal_conv` is the inverse
dynamics model's convolution over frames by itself. `precision` measures the error of a policy in another dtype
or with faster matrix products, relative to float32. `ceiling` measures the FLOP/s of a large matrix product and of the
policy's convolutions on this machine. `label` compares the two modes of labelling long videos by an inverse dynamics
model, and measures the stages of a job (reading, device, writing), which overlap. `start` measures the seconds to the
first training step of a new process, with and without the compilation cache; `compile_step` compiles the step of a
config and reads it from the cache, without running it. `sizes` is the table of docs/sizes.md: parameters, memory of the
compiled train step, and speed of training and of acting (in one environment), of several presets and sizes of the
frames. `rollout` runs the embedded game with the demo's policy, in several arrangements of games and processes.
Alternatives are measured in turns. With --markdown, the table is in Markdown; --json writes it to a file. Without
--data or --recordings, a few minutes of the embedded game are recorded and prepared first, at 128x128, under --workdir.
"""

import importlib
import sys

from absl import app, logging
from benches.measuring import JSON, machine, print_table, write_json

from vpt_jax.system.command_line import refuse_remote_flags
from vpt_jax.system.paths import RemotePathError

BENCHES = {  # name -> module in launch/benches/; each module needs other libraries
    "loader": "data", "decode": "data", "prepare": "data", "train_step": "training", "temporal_conv": "training",
    "forward": "policy", "gradient": "policy", "act": "policy", "ceiling": "policy", "precision": "policy",
    "label": "labelling", "rollout": "playing", "start": "starting", "compile_step": "starting",
    "sizes": "sizes",
}  # fmt: skip


def main(arguments: list[str]) -> None:
    """Runs a benchmark by name, and prints the machine and a table."""
    logging.set_verbosity(logging.WARNING)
    name = arguments[1]
    benches = sys.modules[f"benches.{BENCHES[name]}"]
    try:
        refuse_remote_flags()
        print(machine())
        print_table(rows := getattr(benches, name)())
        if JSON.value:
            write_json(rows)
    except (RemotePathError, *benches.ERRORS) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    if sys.argv[1:2] == [] or sys.argv[1] not in BENCHES:
        sys.exit(f"error: give a benchmark: python launch/bench.py {{{','.join(BENCHES)}}} [--help]")
    importlib.import_module(f"benches.{BENCHES[sys.argv[1]]}")  # defines its flags, before they are parsed
    app.run(main)
