"""Spaces that only describe themselves."""

from types import SimpleNamespace


class Discrete(SimpleNamespace):
    def __init__(self, n):
        super().__init__(n=n)


class Box(SimpleNamespace):
    def __init__(self, low, high, shape, dtype="float32"):
        super().__init__(low=low, high=high, shape=tuple(shape), dtype=dtype)


class Dict(SimpleNamespace):
    def __init__(self, spaces):
        super().__init__(spaces=spaces)
