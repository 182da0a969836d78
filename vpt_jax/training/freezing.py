"""Training some of the parameters: the others, named by a regular expression on their path, stay as they are."""

import re
from typing import Any

import jax
import optax

from vpt_jax.parallel import path_name


class PatternError(ValueError):
    """A pattern that matches no parameter, or all of them, or is none; the message shows some paths."""


def frozen(params: Any, pattern: str) -> Any:
    """Which parameters stay as they are: those in whose path, such as `encoder/dense/norm/scale`, the pattern is found.

    Raises `PatternError`.
    """
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise PatternError(f"{pattern!r} is no regular expression: {error}") from error
    matches = jax.tree.map_with_path(lambda path, _: bool(search(path_name(path))), params)
    found = jax.tree.leaves(matches)
    if all(found) or not any(found):
        paths = [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]
        shown = ", ".join(paths[:: max(1, len(paths) // 5)])
        raise PatternError(f"{pattern!r} matches {'all' if all(found) else 'no'} parameters; paths are {shown}")
    return matches


def hold(params: Any, pattern: str) -> Any:
    """The parameters, of which the frozen ones get no gradient, nor is any computed for them alone."""
    stays = frozen(params, pattern)
    return jax.tree.map(lambda leaf, held: jax.lax.stop_gradient(leaf) if held else leaf, params, stays)


def freeze(optimizer: optax.GradientTransformation, pattern: str) -> optax.GradientTransformation:
    """The optimizer for the others: the frozen ones take no room in its state, and do not decay."""

    def label(params: Any) -> Any:
        return jax.tree.map(lambda held: "frozen" if held else "trained", frozen(params, pattern))

    return optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, label)
