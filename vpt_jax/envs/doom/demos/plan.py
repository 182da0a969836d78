"""Plan of the recordings of demos: one per demo and player, named after level, person and game."""

import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from vpt_jax.envs.doom.demos import DemoError
from vpt_jax.envs.doom.demos.credits import LICENCE, credited_players, digest
from vpt_jax.envs.doom.demos.lump import Demo, read_demo
from vpt_jax.envs.doom.demos.wad import Wad, demo_lumps, read_lmp, read_wad

_FREEDOOM = ("freedoom1.wad", "freedoom2.wad")  # in the package `vizdoom`
_NO_TIME = "00000000-000000"  # demos hold no date; names without a time are never joined to one session


class View(NamedTuple):
    """One recording to make: what one player of a demo saw and did."""

    path: Path  # of the recording, without suffix
    demo: Demo
    player: int  # whose view, of `demo.players`
    person: str
    level: str
    game: Path  # WAD file of the game
    additions: tuple[Path, ...]  # WAD files on top of it
    source: str  # name of the demo in messages
    licence: str  # "": unknown

    @property
    def session(self) -> str:
        """Twelve hexadecimal digits of the game; all players' views of one game have the same."""
        return digest(self.demo.data)


class _Source(NamedTuple):
    """A demo, and what it was played on."""

    name: str
    lump: bytes
    game: Wad
    additions: tuple[Path, ...]


def plan_views(config: ConfigDict) -> list[View]:
    """Plan all recordings of `config.demos`; without files of the user's own, of the demos in Freedoom.

    Raises:
        DemoError: a file is missing, damaged or of another format, or its level or game is not given.
    """
    views: dict[str, View] = {}
    for source in _sources(config.demos):
        for view in _views(source, Path(config.out), config.demos.person):
            views.setdefault(view.path.name, view)  # the same demo, given twice
    if not views:
        raise DemoError(f"there are no demos (lumps DEMO1, DEMO2, ...) in {', '.join(config.demos.files)}")
    return list(views.values())


def _sources(config: ConfigDict) -> Iterator[_Source]:
    files = [Path(file) for file in config.files]
    for file in files or _freedoom():
        if file.suffix.lower() == ".wad":
            wad = read_wad(file)
            game = wad if wad.is_game else _game(config.game, file)
            for name, lump in demo_lumps(wad).items():
                yield _Source(f"{file}:{name}", lump, game, () if wad.is_game else (file,))
        else:
            yield _Source(str(file), read_lmp(file), _game(config.game, file), tuple(map(Path, config.additions)))


def _freedoom() -> list[Path]:
    package = find_spec("vizdoom")  # without importing it
    if package is None or not package.submodule_search_locations:
        raise DemoError(
            "Freedoom's demos are in the package vizdoom, which is not installed: pip install vizdoom, or give "
            "demos of your own, --config.demos.files"
        )
    return [Path(package.submodule_search_locations[0], name) for name in _FREEDOOM]


def _game(game: str, file: Path) -> Wad:
    if not game:
        raise DemoError(f"{file} was played on a game: give its WAD file, --config.demos.game=GAME.wad")
    wad = read_wad(Path(game))
    if not wad.is_game:
        raise DemoError(f"{game} is an addition (PWAD) and not a game: give the game's WAD, --config.demos.game")
    return wad


def _views(source: _Source, out: Path, person: str) -> Iterator[View]:
    demo = read_demo(source.lump, source.name)
    level = _level(demo, source)
    people = credited_players(source.lump)
    for player in demo.players:
        name = people[player] if people else _person(person, source.name, player, len(demo.players))
        session = digest(demo.data + bytes([player]))  # of its own, or two views of a person would have one name
        path = out / "train" / f"{level}_{name}-{session}-{_NO_TIME}"
        licence = LICENCE if people else ""
        yield View(path, demo, player, name, level, source.game.path, source.additions, source.name, licence)


def _level(demo: Demo, source: _Source) -> str:
    levels = set(source.game.levels).union(*(read_wad(path).levels for path in source.additions))
    level = f"MAP{demo.map:02}" if any(name.startswith("MAP") for name in levels) else f"E{demo.episode}M{demo.map}"
    if level not in levels:
        raise DemoError(
            f"{source.name} was played on level {level}, which {source.game.path} does not have: give the WAD files "
            "that were loaded with it, --config.demos.additions"
        )
    return level


def _person(person: str, source: str, player: int, players: int) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", ".", person or Path(source).name.removesuffix(".lmp")).strip(".") or "unknown"
    return name if players == 1 else f"{name}.{player + 1}"


def summary(facts: Sequence[dict]) -> str:
    """Lists minutes of play per person, in words."""
    minutes: dict[str, float] = {}
    for fact in facts:
        if not fact["left_out"]:
            minutes[fact["player"]] = minutes.get(fact["player"], 0.0) + fact["seconds"] / 60
    people = ", ".join(f"{name} {minutes[name]:.1f}" for name in sorted(minutes))
    return f"{sum(minutes.values()):.1f} minutes ({people})" if minutes else "nothing"
