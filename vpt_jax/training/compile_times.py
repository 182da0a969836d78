"""Time of compiling: seconds that JAX has compiled for in this process, and the share of the compilation cache."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax

_REQUEST = "/jax/compilation_cache/compile_requests_use_cache"
_HIT = "/jax/compilation_cache/cache_hits"
_COMPILE = "/jax/core/compile/backend_compile_duration"  # reading from the cache counts as well


@dataclass
class CompileTimes:
    """Sums over the programs that were compiled, or read from the cache.

    Attributes:
        seconds: of compiling, or reading from the cache.
        requests: programs that were looked for in the cache; 0: there is no cache.
        hits: programs that were in the cache.
    """

    seconds: float = 0.0
    requests: int = 0
    hits: int = 0

    def __str__(self) -> str:
        """Text such as "compiled in 12.3 s (3 of 4 programs from the cache)"."""
        if not self.requests:
            source = "without a cache"
        elif self.hits == self.requests:
            source = "from the cache"
        else:
            source = f"{self.hits} of {self.requests} programs from the cache"
        return f"compiled in {self.seconds:.1f} s ({source})"


@contextmanager
def measured_compilation() -> Iterator[CompileTimes]:
    """Context manager of figures that grow with every compilation in the block."""
    times = CompileTimes()

    def count(event: str, **_: object) -> None:
        times.requests += event == _REQUEST
        times.hits += event == _HIT

    def add(event: str, duration_secs: float, **_: object) -> None:
        times.seconds += duration_secs * (event == _COMPILE)

    jax.monitoring.register_event_listener(count)
    jax.monitoring.register_event_duration_secs_listener(add)
    try:
        yield times
    finally:
        jax.monitoring.unregister_event_listener(count)
        jax.monitoring.unregister_event_duration_listener(add)
