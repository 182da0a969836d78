"""Shapes and dtypes of `vpt_jax`'s array annotations, checked in every call of a test by jaxtyping and beartype.

Only mypy checks other annotations: at run time a NumPy integer would not be an `int`, nor a `ConfigDict` a `Mapping`.
"""

from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook


def check(function: Callable) -> Callable:
    """The function with beartype's checks of the arrays among its arguments and results."""
    function.__annotations__ = {name: _arrays_only(hint) for name, hint in function.__annotations__.items()}
    return beartype(function)


def _arrays_only(hint: Any) -> Any:
    """The hint with every type but arrays and `None` replaced by `Any`."""
    if _is_array(hint) or hint in (NoneType, None, Ellipsis):
        return hint
    if not _holds_arrays(hint) or get_origin(hint) is Callable:  # of a function nothing can be checked
        return Any
    origin, parts = get_origin(hint), tuple(map(_arrays_only, get_args(hint)))
    return Union[parts] if origin in (Union, UnionType) else origin[parts]  # noqa: UP007 - of a tuple


def _is_array(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, AbstractArray)


def _holds_arrays(hint: Any) -> bool:
    return _is_array(hint) or any(map(_holds_arrays, get_args(hint)))


def install() -> None:
    """Installs the checks; call this before `vpt_jax` is imported."""
    install_import_hook("vpt_jax", "tests.checked_types.check")
