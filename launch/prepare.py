"""Turns recordings into a dataset: python launch/prepare.py --config.recordings=DIR --config.out=DIR."""

from absl import app
from ml_collections import config_flags

from vpt_jax.data.prepare import PrepareError, prepare

CONFIG = config_flags.DEFINE_config_file("config", "configs/prepare.py", lock_config=True)


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"no such argument: {argv[1]}")
    try:
        prepare(CONFIG.value)
    except PrepareError as error:
        raise SystemExit(f"prepare: {error}") from None


if __name__ == "__main__":
    app.run(main)
