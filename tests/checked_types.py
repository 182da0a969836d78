"""Shapes and dtypes of `vpt_jax`'s array annotations, checked in every call of a test by jaxtyping and beartype.

Other annotations are mypy's: at run time a NumPy integer would not be an `int`, nor a `ConfigDict` a `Mapping`.
"""

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook


def check(function: Callable) -> Callable:
    """The function with beartype's checks of those arguments and results that hold arrays."""
    function.__annotations__ = {
        name: hint if _holds_arrays(hint) else Any for name, hint in function.__annotations__.items()
    }
    return beartype(function)


def _holds_arrays(hint: Any) -> bool:
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(_holds_arrays, get_args(hint)))


def install() -> None:
    """To be called before `vpt_jax` is imported."""
    install_import_hook("vpt_jax", "tests.checked_types.check")
