"""Mapping from the X server's clock, milliseconds of 32 bits, to the recorder's monotonic clock in seconds."""

_WRAP = 2**32
_RESOLUTION = 1e-3  # seconds: the server's time is rounded down


class ServerClock:
    """Offset between the two clocks, bounded by round trips: the server's time lies between request and reply."""

    def __init__(self) -> None:
        self._low, self._high = -float("inf"), float("inf")
        self._last: int | None = None  # milliseconds, without the wrap after 49 days

    def add(self, before: float, server: int, after: float) -> None:
        """Add a round trip: time of request and reply in seconds, and the server's time of the event between."""
        seconds = self._unwrap(server) / 1000
        low, high = before - seconds - _RESOLUTION, after - seconds
        narrowed = max(low, self._low), min(high, self._high)
        # The clocks of two machines drift apart: then the newest round trip alone counts.
        self._low, self._high = narrowed if narrowed[0] <= narrowed[1] else (low, high)

    def seconds(self, server: int) -> float:
        """Time of the recorder's clock at a time of the server."""
        return self._unwrap(server) / 1000 + (self._low + self._high) / 2

    def _unwrap(self, server: int) -> int:
        last = server if self._last is None else self._last
        self._last = last + (server - last + _WRAP // 2) % _WRAP - _WRAP // 2
        return self._last
