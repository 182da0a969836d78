"""Preparing datasets on a cluster: tasks are run by an Apache Beam runner instead of processes of this machine.

Beam carries the tasks, which are names of files, and not what is in them: all machines need the folders of recordings
and dataset on a disk that they share, and this library installed. A task leaves a file that appears whole, and is the
same whoever does it, so Beam may repeat what a lost worker had in hand.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vpt_jax.system.workers import Run


class BeamMissingError(ImportError):
    """Apache Beam is not installed; the message says how to install it."""


@contextmanager
def on_runner(runner: str, options: Sequence[str]) -> Iterator[Run]:
    """Tasks are run by a Beam runner. Their numbers come when all are done, without results: those lie on the disk.

    Args:
        runner: "DirectRunner" for this machine, or another one of Beam's.
        options: Beam's own flags, such as "--direct_num_workers=4"; those of a cluster are in its runner's manual.

    Raises:
        BeamMissingError: Beam is not installed.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise BeamMissingError('Beam is not installed: pip install -c constraints.txt -e ".[beam]"') from error

    def run(function: Callable[..., Any], tasks: Sequence[tuple]) -> Iterator[tuple[int, Any]]:
        with apache_beam.Pipeline(runner, PipelineOptions(list(options))) as pipeline:
            # Without a reshuffle, a runner may fuse all into one stage, which one worker then does.
            pipeline | apache_beam.Create(list(tasks)) | apache_beam.Reshuffle() | apache_beam.Map(_call, function)
        return ((number, 0) for number in range(len(tasks)))

    yield run


def _call(task: tuple, function: Callable[..., Any]) -> None:
    function(*task)
