"""Config fields that do not exist: old names of renamed fields, and misspelt names, with the name to use instead."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from operator import attrgetter

from ml_collections import ConfigDict

from vpt_jax.system.errors import UserError

# Old name: new names. A name that had several meanings has several; the new one is that which the config has.
RENAMED_FIELDS: dict[str, tuple[str, ...]] = {
    "data.parts": ("data.grad_accum_steps",),
    "data.nulls": ("data.null_actions",),
    "games": ("num_envs",),
    "length": ("unroll_length",),
    "fragments": ("updates_per_rollout",),
    "ppg.leash": ("ppg.kl_pretrained_coef",),
    "ppg.leash_decay": ("ppg.kl_pretrained_decay",),
    "ppg.clone": ("ppg.kl_old_policy_coef",),
    "parts": ("num_shards",),
    "part": ("shard_index",),
    "rate": ("frames_per_second", "bytes_per_second"),
    "kernel": ("median_window",),
    "C": ("svm_c",),
    "profile": ("profile_dir",),
    "frozen": ("frozen_pattern",),
    "ppg.gae_decay": ("ppg.gae_lambda",),
    "ppg.clip": ("ppg.clip_range",),
    "ppg.wake_value": ("ppg.wake_value_coef",),
    "ppg.value": ("ppg.sleep_value_coef",),
    "ppg.aux_value": ("ppg.aux_value_coef",),
    "ppg.entropy": ("ppg.entropy_coef",),
    "game.machines": ("game.num_machines",),
    "at_once": ("max_parallel",),
    "span": ("windows_per_span",),
    "films": ("num_films",),
    "contractor.pairs": ("contractor.max_pairs",),
    "contractor.timeout": ("contractor.timeout_seconds",),
    "contractor.largest_megabytes": ("contractor.max_megabytes",),
    "contractor.private": ("contractor.allow_private_networks",),
    "results": ("max_results",),
    "timeout": ("timeout_seconds",),
    "pause": ("pause_seconds",),
    "backoff": ("backoff_seconds",),
    "age_limit": ("max_age_limit",),
    "excerpts": ("num_excerpts",),
    "folds": ("num_folds",),
    "precision": ("min_precision",),
}

# Fields whose values have other names now: text of the old value in lower case: new value.
RENAMED_VALUES: dict[str, dict[str, str]] = {"model.remat": {"false": "none", "true": "stacks"}}


class RenamedFieldError(UserError, ValueError):
    """A config has a field or a value by its old name; the message has the new one."""


def field_names(config: ConfigDict, prefix: str = "") -> list[str]:
    """Dotted names of all fields of a config, groups included."""
    names = []
    for name in config:
        names.append(prefix + name)
        if isinstance(group := config[name], ConfigDict):
            names += field_names(group, f"{prefix}{name}.")
    return names


def refuse_renamed_fields(config: ConfigDict) -> None:
    """Check a config for old names: a file can add any field to a config, and no program would read it.

    Raises:
        RenamedFieldError: a field or its value has an old name.
    """
    names = field_names(config)
    for name in names:
        if name in RENAMED_FIELDS:
            raise RenamedFieldError(f"the config sets a field by its old name: {_new_name(name, names)}")
    for name in RENAMED_VALUES.keys() & set(names):
        old = str(attrgetter(name)(config))
        if new := RENAMED_VALUES[name].get(old.lower()):
            raise RenamedFieldError(f"config.{name}={old} is now called config.{name}={new}")


def explain_missing_field(field: str, names: Sequence[str]) -> str:
    """Error message for a field that is not among a config's `names`: its new name, or the most similar name."""
    if set(RENAMED_FIELDS.get(field, ())) & set(names):
        return _new_name(field, names)
    similar = _most_similar(field, names)
    return f"the config has no field {field}" + (f"; did you mean config.{similar}?" if similar else "")


def new_names_hint(message: str) -> str:
    """New names of the old ones that an error message quotes, with or without their group; empty if it quotes none."""
    quoted = set(re.findall(r"['\"]([\w.]+)['\"]", message))
    return "; ".join(_new_name(old, ()) for old in RENAMED_FIELDS if {old, old.rpartition(".")[2]} & quoted)


def _new_name(old: str, names: Sequence[str]) -> str:
    new_names = [new for new in RENAMED_FIELDS[old] if new in names] or RENAMED_FIELDS[old]
    return f"config.{old} is now called " + " or ".join(f"config.{new}" for new in new_names)


def _most_similar(field: str, names: Sequence[str]) -> str | None:
    """The field of the same name in any group, else the most similar one in the same group, else in any group."""
    group, _, last = field.rpartition(".")
    same_group = [name for name in names if name.rpartition(".")[0] == group]
    for candidates, cutoff in ((names, 1.0), (same_group, 0.6), (names, 0.6)):
        by_last = {name.rpartition(".")[2]: name for name in reversed(candidates)}
        if matches := get_close_matches(last, by_last, 1, cutoff):
            return by_last[matches[0]]
    return None
