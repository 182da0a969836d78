"""Prepare a dataset from recordings: OpenAI's contractor data, or another format (fields: configs/prepare.py).

python launch/prepare.py --config=configs/prepare.py --config.recordings=RECORDINGS --config.out=DATASET
"""

from absl import flags
from ml_collections import ConfigDict

from vpt_jax.curation.download.contractor import download
from vpt_jax.data.bridges.registry import BRIDGES
from vpt_jax.data.encode import RECORDINGS
from vpt_jax.data.prepare import prepare
from vpt_jax.system import command_line


def run() -> None:
    """Run the command."""
    source = flags.DEFINE_enum(
        "source",
        "recordings",
        [RECORDINGS, "contractor", *BRIDGES],
        "recordings: a local folder in OpenAI's format; contractor: first download the recordings of an index into it; "
        "others: a local folder in this format.",
    )

    def download_and_prepare(config: ConfigDict) -> None:
        if source.value == "contractor":
            download(config)
            if config.contractor.dry_run:
                return
        prepare(config, source.value if source.value in BRIDGES else RECORDINGS)

    command_line.run(download_and_prepare, "prepare", __name__)
