"""Records play of the embedded game: python launch/record.py --config=configs/record.py:demo --config.out=FOLDER."""

import sys

from absl import app
from ml_collections import config_flags

from vpt_jax.envs.recorder import RecordError, record

CONFIG = config_flags.DEFINE_config_file("config", "configs/record.py", lock_config=True)


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"no such argument: {argv[1]}")
    try:
        print(f"recordings {record(CONFIG.value)}")
    except RecordError as error:
        raise SystemExit(f"record: {error}") from None
    except KeyboardInterrupt:
        print("\nrecord: stopped; the same command goes on with what is missing", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    app.run(main)
