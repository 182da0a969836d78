"""Dataset preparation on a cluster: an Apache Beam runner executes the tasks instead of local worker processes.

Beam transports the tasks, which are file names, and no file contents: all machines need the folders of recordings and
dataset on a shared disk, and this library installed. Tasks are idempotent: the output is deterministic and renamed into
place atomically, so Beam may repeat the tasks of a lost worker.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vpt_jax.system.errors import UserError
from vpt_jax.system.workers import TaskRunner


class BeamMissingError(UserError, ImportError):
    """Apache Beam is not installed; the message names the pip command."""


@contextmanager
def on_runner(runner: str, options: Sequence[str]) -> Iterator[TaskRunner]:
    """Context manager for a function that runs tasks on a Beam runner.

    It yields the tasks' numbers once all are done, with 0 in place of results, which are on disk.

    Args:
        runner: "DirectRunner" for this machine, or another Beam runner.
        options: Beam's own flags, such as "--direct_num_workers=4"; cluster runners document theirs.

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
            # Without a reshuffle, a runner may fuse all tasks into one stage, which runs on a single worker.
            pipeline | apache_beam.Create(list(tasks)) | apache_beam.Reshuffle() | apache_beam.Map(_call, function)
        return ((number, 0) for number in range(len(tasks)))

    yield run


def _call(task: tuple, function: Callable[..., Any]) -> None:
    function(*task)
