"""Prepare a dataset from a folder of recordings or from OpenAI's contractor data (fields: configs/prepare.py).

python launch/prepare.py --config=configs/prepare.py --config.recordings=RECORDINGS --config.out=DATASET
"""

from absl import flags
from ml_collections import ConfigDict

from vpt_jax.curation.download.contractor import download
from vpt_jax.data.prepare import prepare
from vpt_jax.system import command_line


def run() -> None:
    """Run the command."""
    source = flags.DEFINE_enum(
        "source",
        "recordings",
        ["recordings", "contractor"],
        "recordings: a local folder; contractor: first download the recordings of an index into it.",
    )

    def download_and_prepare(config: ConfigDict) -> None:
        if source.value == "contractor":
            download(config)
            if config.contractor.dry_run:
                return
        prepare(config)

    command_line.run(download_and_prepare, "prepare", __name__)
