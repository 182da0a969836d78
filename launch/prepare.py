"""Prepare a dataset from a folder of recordings or from OpenAI's contractor data (fields: configs/prepare.py).

python launch/prepare.py --config=configs/prepare.py --config.recordings=RECORDINGS --config.out=DATASET
"""

from absl import flags
from ml_collections import ConfigDict

from vpt_jax.curation.download.contractor import download
from vpt_jax.data.prepare import prepare
from vpt_jax.system import command_line

SOURCE = flags.DEFINE_enum(
    "source",
    "recordings",
    ["recordings", "contractor"],
    "recordings: a local folder; contractor: first download the recordings of an index into it.",
)


def main(config: ConfigDict) -> None:
    """Downloads the recordings if --source=contractor, then prepares the dataset."""
    if SOURCE.value == "contractor":
        download(config)
        if config.contractor.dry_run:
            return
    prepare(config)


if __name__ == "__main__":
    command_line.run(main, "configs/prepare.py")
