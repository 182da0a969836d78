"""Plan of a sweep: its runs, and the stages of all of them, each once (configs/sweeps/base.py has the fields).

A stage's output folder is named by its content: the values that vary in it and a digest of its command. So it does not
depend on the order or the number of the runs, and stages that are equal in several runs, or sweeps, are the same.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from demo.stages import Stage, flags, program
from ml_collections import ConfigDict

from vpt_jax.system.errors import ConfigError

_REFERENCE = re.compile(r"\{(\w+)(\*?)\}")
_STOPPED_STATUS = 75  # exit status of training that was stopped and saved
SHARED = "shared"  # value of `config.index`


class Run(NamedTuple):
    """One combination of the varied values, with a seed."""

    name: str
    values: Mapping[str, Any]  # by the varied names; of several fields, that of the first if these differ
    settings: Mapping[str, Any]  # by the varied fields, STAGE.FIELD
    seed: int
    folders: Mapping[str, Path]  # output folders by the names of the stages in the config
    stages: frozenset[str]  # names of the stages that it needs


class Plan(NamedTuple):
    """All runs of a sweep, and their stages in the order of their dependencies."""

    runs: tuple[Run, ...]
    stages: tuple[Stage, ...]
    joint: frozenset[str]  # names of the stages that need all runs

    def select(self, index: str) -> list[Stage]:
        """The stages of `config.index`; raises `ConfigError` if there is no such run."""
        counts = {stage.name: sum(stage.name in run.stages for run in self.runs) for stage in self.stages}
        if not index:
            return list(self.stages)
        if index == SHARED:
            return [stage for stage in self.stages if counts[stage.name] > 1]
        if not index.isdecimal() or int(index) >= len(self.runs):
            raise ConfigError(f"config.index is {index!r}: it must be a run, 0 to {len(self.runs) - 1}, or {SHARED!r}")
        return [stage for stage in self.stages if stage.name in self.runs[int(index)].stages]


class _Resolved(NamedTuple):
    """A stage of a run."""

    stage: Stage
    folder: Path
    labels: tuple[str, ...]  # texts of the values and the seed that it depends on
    needed: frozenset[str]  # names of the stages that it depends on, and its own


def make_plan(config: ConfigDict, root: Path) -> Plan:
    """Plan of a sweep, with the programs of the repository at `root`.

    Raises:
        ConfigError: a stage, a field, a value or a reference does not fit the others.
    """
    _check(config)
    stages: dict[str, Stage] = {}
    runs: list[Run] = []
    joint_names = _joint_names(config)
    for combination in itertools.product(*(enumerate(axis.choices) for axis in config.vary.values())):
        places = dict(zip(config.vary, (place for place, _ in combination), strict=True))
        for seed in config.seeds:
            resolver = _Resolver(config, root, places, seed, {})
            own = {name: resolver.resolve(name) for name in config.stages if name not in joint_names}
            stages |= {resolved.stage.name: resolved.stage for resolved in _in_order(own.values())}
            folders = {name: resolved.folder for name, resolved in own.items()}
            needed = frozenset(resolved.stage.name for resolved in own.values())
            runs.append(Run(resolver.run_name(), resolver.values(), resolver.settings(), seed, folders, needed))
    if len({run.name for run in runs}) < len(runs):
        raise ConfigError(f"config.vary and config.seeds give several runs the same name: {[run.name for run in runs]}")
    return _with_joint_stages(config, root, runs, stages, joint_names)


def _in_order(resolved: Any) -> list[_Resolved]:
    """Stages after those that they depend on, which need fewer."""
    return sorted(resolved, key=lambda one: len(one.needed))


def _with_joint_stages(
    config: ConfigDict, root: Path, runs: list[Run], stages: dict[str, Stage], names: list[str]
) -> Plan:
    """Plan with the stages that need all runs."""
    joint = {}
    for name in names:
        resolver = _Resolver(config, root, dict.fromkeys(config.vary, 0), config.seeds[0], {}, runs)
        resolved = resolver.resolve(name)
        if resolved.labels:
            raise ConfigError(f"config.stages.{name} needs all runs, and {' '.join(resolved.labels)} varies in it")
        joint[name] = resolved
    folders = {name: resolved.folder for name, resolved in joint.items()}
    stages |= {resolved.stage.name: resolved.stage for resolved in joint.values()}
    all_runs = tuple(run._replace(folders={**run.folders, **folders}) for run in runs)
    return Plan(all_runs, tuple(stages.values()), frozenset(resolved.stage.name for resolved in joint.values()))


class _Resolver(NamedTuple):
    """Resolves the stages of one run."""

    config: ConfigDict
    root: Path
    places: Mapping[str, int]  # of the run's values among those of each varied name
    seed: int
    resolved: dict[str, _Resolved]
    runs: list[Run] = []  # noqa: RUF012 - read only; for a stage that needs all runs

    def values(self) -> dict[str, Any]:
        """Values by the varied names."""
        return {name: choice_values(axis)[self.places[name]] for name, axis in self.config.vary.items()}

    def settings(self) -> dict[str, Any]:
        """Values by the varied fields."""
        axes = [(axis, axis.choices[self.places[name]]) for name, axis in self.config.vary.items()]
        return {
            field: part for axis, choice in axes for field, part in zip(axis.fields, _parts(axis, choice), strict=True)
        }

    def run_name(self) -> str:
        """Name of the run."""
        return "-".join([*map(label, self.values().values()), f"seed{self.seed}"])

    def resolve(self, name: str) -> _Resolved:
        """The stage of this name, and those that it depends on."""
        if name not in self.resolved:
            self.resolved[name] = self._resolve(name)
        return self.resolved[name]

    def _resolve(self, name: str) -> _Resolved:
        spec = self.config.stages[name]
        varied, own_labels = self._varied(name)
        settings = [*spec.settings, *varied]
        used: dict[str, _Resolved] = {}
        for setting in settings:
            used |= {found: self.resolve(found) for found, star in _references(setting) if self._is_stage(found, star)}
        labels = tuple(dict.fromkeys([*itertools.chain(*(one.labels for one in used.values())), *own_labels]))
        content = [spec.program, spec.config, [self._fill(setting, _folder_name) for setting in settings]]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
        full_name = "-".join([name, *labels, digest])
        folder = Path(self.config.workdir).resolve() / full_name
        depends_on = [one.stage.name for one in used.values()]
        depends_on += [path.name for run in self.runs for path in self._all_of(settings, run)]
        stopped = {"workdir": folder, "stopped_status": _STOPPED_STATUS} if spec.program == "train" else {"out": folder}
        filled = tuple(self._fill(setting, str) for setting in settings)
        report, arguments = self.config.report, flags(self.root, spec.config, filled, **stopped)
        output = folder / report.file if report.file and name == report.stage else None
        stage = program(self.root, full_name, f"{spec.program}.py", arguments, depends_on, output)
        return _Resolved(stage, folder, labels, frozenset().union(*(one.needed for one in used.values()), {full_name}))

    def _is_stage(self, name: str, star: str) -> bool:
        return not star and name in self.config.stages

    def _all_of(self, settings: list[str], run: Run) -> list[Path]:
        return [run.folders[name] for setting in settings for name, star in _references(setting) if star]

    def _varied(self, name: str) -> tuple[list[str], list[str]]:
        """Settings of a stage that vary, and the labels of their values."""
        settings, labels = [], []
        for axis_name, axis in self.config.vary.items():
            place = self.places[axis_name]
            for field, part in zip(axis.fields, _parts(axis, axis.choices[place]), strict=True):
                stage, _, own_field = field.partition(".")
                if stage == name:
                    settings.append(f"{own_field}={part}")
                    labels.append(label(choice_values(axis)[place]))
        if name in self.config.seeded:
            settings.append(f"seed={self.seed}")
            labels.append(f"seed{self.seed}")
        return settings, labels

    def _fill(self, setting: str, text: Any) -> str:
        """A setting with folders, as `text` of their paths, in place of the references."""

        def folder(found: re.Match[str]) -> str:
            name, star = found.groups()
            if star:
                return str(tuple(f"{run.name}={text(run.folders[name])}" for run in self.runs))
            if name in self.config.stages:
                return str(text(self.resolve(name).folder))
            return str(self.config.folders[name])

        return _REFERENCE.sub(folder, setting)


def _folder_name(folder: Path) -> str:
    return folder.name


def _references(setting: str) -> Iterator[tuple[str, str]]:
    for found in _REFERENCE.finditer(setting):
        yield found[1], found[2]


def _joint_names(config: ConfigDict) -> list[str]:
    """Names of the stages that need all runs, or the output of a stage that does."""
    found: list[str] = []
    while more := [name for name, stage in config.stages.items() if name not in found and _is_joint(stage, found)]:
        found += more
    return found


def _is_joint(stage: ConfigDict, joint: Sequence[str]) -> bool:
    return any(star or name in joint for setting in stage.settings for name, star in _references(setting))


def _parts(axis: ConfigDict, choice: Any) -> tuple[Any, ...]:
    """A choice's value for each field."""
    return choice if len(axis.fields) > 1 else (choice,)


def choice_values(axis: ConfigDict) -> list[Any]:
    """Values by which the choices are told apart: of several fields, the first, or all of them if the first do not."""
    firsts = [_parts(axis, choice)[0] for choice in axis.choices]
    if len(axis.fields) == 1 or len({label(value) for value in firsts}) == len(firsts):
        return firsts
    return [" ".join(map(label, choice)) for choice in axis.choices]


def label(value: Any) -> str:
    """Text of a varied value, for names of runs and folders: letters, digits, dots and underscores."""
    return re.sub(r"[^\w.]+", "_", f"{value:g}" if isinstance(value, float) else str(value))


def _check(config: ConfigDict) -> None:
    if not config.seeds:
        raise ConfigError("config.seeds is empty: give at least one seed")
    if taken := sorted({*config.vary} & {"run", "seed", "seconds", "step"}):
        raise ConfigError(f"config.vary has the name {taken[0]!r}, which is also a column of the results: rename it")
    for name, axis in config.vary.items():
        if not axis.choices:
            raise ConfigError(f"config.vary.{name}.choices is empty")
        for field in axis.fields:
            if field.partition(".")[0] not in config.stages or "." not in field:
                raise ConfigError(
                    f"config.vary.{name}.fields has {field!r}: write STAGE.FIELD, the stage being one of "
                    f"{', '.join(config.stages)}"
                )
        for value in axis.choices if len(axis.fields) > 1 else ():
            if not isinstance(value, tuple) or len(value) != len(axis.fields):
                raise ConfigError(f"config.vary.{name}.choices has {value!r}: give a value for each of {axis.fields}")
    if unknown := {*config.seeded, config.report.stage} - {*config.stages}:
        raise ConfigError(f"config.seeded or config.report.stage has {unknown.pop()!r}, which is not in config.stages")
    if config.report.file and (config.vary or len(config.seeds) > 1):
        raise ConfigError(
            f"config.report.file is {config.report.file!r}, the result of a single run: leave config.vary empty, and "
            "give one of config.seeds"
        )
    if not config.report.file and config.report.x not in {*config.vary, "parameters"}:
        raise ConfigError(f"config.report.x is {config.report.x!r}: choose one of {', '.join(config.vary)}, parameters")
    _check_report(config)
    _check_references(config)


def _check_report(config: ConfigDict) -> None:
    report, values = config.report, {name: choice_values(axis) for name, axis in config.vary.items()}
    if unknown := [name for name in report.series if name not in values or name == report.x]:
        names = ", ".join(name for name in values if name != report.x) or "none"
        raise ConfigError(f"config.report.series has {unknown[0]!r}: choose among {names}")
    places = values.get(report.x, [])
    if report.log_x and (wrong := [place for place in places if not is_number(place) or place <= 0]):
        raise ConfigError(
            f"config.report.log_x needs positive numbers, and {report.x} has {wrong[0]!r}: set it to False"
        )
    numbers = [*map(is_number, places)]
    if any(numbers) and not all(numbers):
        raise ConfigError(f"config.report.x is {report.x!r}, which has numbers and other values: {places}")
    known = [place if is_number(place) else label(place) for place in places]
    pairs = [name for pair in report.better for name in pair]
    if places and (wrong := [name for name in pairs if name not in known]):
        raise ConfigError(f"config.report.better has {wrong[0]!r}: choose among {', '.join(map(str, known))}")


def is_number(value: Any) -> bool:
    """True for a number that has a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_references(config: ConfigDict) -> None:
    joint = _joint_names(config)
    for name, stage in config.stages.items():
        for setting in stage.settings:
            for reference, star in _references(setting):
                if reference not in config.stages and (star or reference not in config.folders):
                    raise ConfigError(
                        f"config.stages.{name}.settings has {setting!r}, and {reference!r} is neither a stage nor in "
                        "config.folders"
                    )
                if star and reference in joint:
                    raise ConfigError(
                        f"config.stages.{name}.settings has {setting!r}, and {reference!r} has one output, of "
                        f"all runs: write {{{reference}}}"
                    )
    waiting = {
        name: {found for s in spec.settings for found, _ in _references(s)} for name, spec in config.stages.items()
    }
    while ready := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in ready:
            del waiting[name]
    if waiting:
        raise ConfigError(f"config.stages: {', '.join(waiting)} need each other's output")
