"""Frozen parameters, selected by a regular expression on their path: no gradient, no update, no optimizer state."""

import re
from typing import Any

import jax
import optax

from vpt_jax.parallel import path_name


class PatternError(ValueError):
    """An invalid pattern, or one that matches no parameter or all of them; the message lists some paths."""


def frozen_mask(params: Any, pattern: str) -> Any:
    """Boolean mask over the parameters: true where `pattern` is found in the path, such as `encoder/dense/norm/scale`.

    Raises:
        PatternError: the pattern is not a valid regular expression, or matches no parameter, or all.
    """
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise PatternError(f"{pattern!r} is not a valid regular expression: {error}") from error
    matches = jax.tree.map_with_path(lambda path, _: bool(search(path_name(path))), params)
    found = jax.tree.leaves(matches)
    if all(found) or not any(found):
        paths = [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]
        shown = ", ".join(paths[:: max(1, len(paths) // 5)])
        raise PatternError(f"{pattern!r} matches {'all' if all(found) else 'no'} parameters; paths are {shown}")
    return matches


def stop_gradient_on_frozen(params: Any, pattern: str) -> Any:
    """Applies `stop_gradient` to parameters whose path matches `pattern`.

    The backward pass then computes nothing that only their gradients would need. Raises `PatternError`.
    """
    mask = frozen_mask(params, pattern)
    return jax.tree.map(lambda leaf, is_frozen: jax.lax.stop_gradient(leaf) if is_frozen else leaf, params, mask)


def freeze(optimizer: optax.GradientTransformation, pattern: str) -> optax.GradientTransformation:
    """Restricts an optimizer to the parameters that are not frozen.

    Frozen ones have no optimizer state, get no update and no weight decay. The optimizer's `init` and `update` raise
    `PatternError`.
    """

    def label(params: Any) -> Any:
        return jax.tree.map(lambda is_frozen: "frozen" if is_frozen else "trained", frozen_mask(params, pattern))

    return optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, label)
