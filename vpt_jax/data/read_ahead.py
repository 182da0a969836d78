"""Early start of data workers: a thread waits for the first batch while the caller does other work."""

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import TypeVar

Item = TypeVar("Item")


@contextmanager
def read_ahead(batches: Generator[Item]) -> Iterator[Iterator[Item]]:
    """Context manager of the same batches, the first of which a thread reads from now on; closes the generator.

    A generator of `streams.batches` starts its worker processes when it is first asked, and their imports take seconds:
    as long as tracing a train step.
    """
    with closing(batches), ThreadPoolExecutor(1, "first-batch") as pool:  # the thread ends before the generator does
        first = pool.submit(lambda: [*_take_one(batches)])
        try:
            with closing(_chain(first, batches)) as chained:
                yield chained
        finally:
            with suppress(Exception):  # of a worker; nobody has asked for the batch
                first.result().clear()


def _take_one(batches: Generator[Item]) -> Iterator[Item]:
    for batch in batches:
        yield batch
        return


def _chain(first: "Future[list[Item]]", batches: Generator[Item]) -> Generator[Item]:
    taken = first.result()
    while taken:
        yield taken.pop()  # no reference is kept: the batch may be in shared memory
    yield from batches
