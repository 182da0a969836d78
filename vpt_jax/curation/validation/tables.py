"""Tables of dataset statistics, as text for the terminal and as HTML for pages."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vpt_jax.actions.space import Axis
from vpt_jax.curation.validation.stats import Stats
from vpt_jax.report import page
from vpt_jax.video import FRAME_RATE

SHOWN_ITEMS = 40
Rows = list[list[str | float]]


class Table(NamedTuple):
    """A titled table. Rows begin with their name; a float is a share of 1."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float]]
    note: str = ""

    def text(self) -> str:
        """The table as aligned text for the terminal."""
        cells = [[f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row] for row in self.rows]
        lines = [list(self.columns), *cells]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        prose = [i == 0 or any(" " in row[i] for row in cells) for i in range(len(widths))]
        texts = ("  ".join(map(_justify, line, widths, prose)) for line in lines)
        return "\n".join([self.title, *(f"  {text.rstrip()}" for text in texts)])

    def html(self) -> str:
        """The table as a section of an HTML page."""
        return page.section(self.title, *([page.paragraph(self.note)] if self.note else []), page.table(*self[1:3]))


def _justify(cell: str, width: int, left: bool) -> str:
    return cell.ljust(width) if left else cell.rjust(width)


def stats_tables(stats: Mapping[str, Stats]) -> list[Table]:
    """Tables of the statistics of splits, of one or several datasets, one column per split."""
    columns = ["", *stats]
    names = dict.fromkeys(name for each in stats.values() for name in each.space.keys)
    used = [name for name in names if any(each.held.get(name) for each in stats.values())]
    held: Rows = [[name, *(each.held.get(name, 0.0) for each in stats.values())] for name in used]
    presses: Rows = [[name, *(f"{each.presses.get(name, 0.0):.1f}" for each in stats.values())] for name in used]
    axes = dict.fromkeys((axis, stats_of.space.name) for stats_of in stats.values() for axis in stats_of.space.axes)
    trivial = "A constant prediction of no key and no camera movement is right in all other frames."
    note = f"Keys never used are left out. {trivial}"
    return [
        Table("Size", columns, _size_rows(stats)),
        Table("Keys: share of frames in which they are down", columns, held, note),
        Table("Keys: presses per minute", columns, presses),
        *(_axis_table(axis, {key: one for key, one in stats.items() if axis in one.space.axes}) for axis, _ in axes),
    ]


_WAYS = {"pitch": "degrees down", "yaw": "degrees right"}


def _axis_table(axis: Axis, stats: Mapping[str, Stats]) -> Table:
    quantizer = axis.quantizer
    rows: Rows = [
        [f"{value:+.2f}", *(each.axes[axis.name][i] for each in stats.values())]
        for i, value in enumerate(quantizer.centres)
    ]
    law = "mu-law" if quantizer.mu else "equal"
    note = f"{quantizer.num_bins} {law} bins, by the movement per step at their centre."
    unit = _WAYS.get(axis.name, axis.unit)
    return Table(f"Camera: share of frames in each bin of {axis.name}", [unit, *stats], rows, note)


_STILL = {"pitch": "no turn up or down", "yaw": "no turn left or right"}


def _size_rows(stats: Mapping[str, Stats]) -> Rows:
    rows: dict[str, list[str | float]] = {
        "hours": [f"{each.hours:,.2f}" for each in stats.values()],
        "frames": [f"{each.frames:,}" for each in stats.values()],
        "episodes": [f"{each.episodes:,}" for each in stats.values()],
        "shortest, s": [f"{each.shortest / FRAME_RATE:,.1f}" for each in stats.values()],
        "median, s": [f"{each.median / FRAME_RATE:,.1f}" for each in stats.values()],
        "longest, s": [f"{each.longest / FRAME_RATE:,.1f}" for each in stats.values()],
        "labels": [each.labels for each in stats.values()],
        "mean confidence": [each.confidence for each in stats.values()],
        "null actions": [each.null for each in stats.values()],
    }
    for axis in dict.fromkeys(axis for each in stats.values() for axis in each.axes):
        still = (each.axes[axis][each.space.null_bin] if axis in each.axes else "" for each in stats.values())
        rows[_STILL.get(axis, f"no movement of {axis}")] = list(still)
    return [[name, *cells] for name, cells in rows.items()]


def recorded_tables(recorded: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Tables of statistics that only recordings contain, one column per group of recordings."""
    columns = ["", *recorded]
    versions = sorted({version for each in recorded.values() for version in each["versions"]})
    reasons = sorted({reason for each in recorded.values() for reason in each.get("broken", {})})
    rows: Rows = [
        ["recordings", *(f"{each['recordings']:,}" for each in recorded.values())],
        ["hours", *(f"{each['hours']:,.2f}" for each in recorded.values())],
        ["frames with an open GUI", *(each["gui"] for each in recorded.values())],
    ]
    rows += [
        [f"recorder version {name}", *(f"{each['versions'].get(name, 0):,}" for each in recorded.values())]
        for name in versions
    ]
    rows += [
        [f"broken: {name}", *(f"{each.get('broken', {}).get(name, 0):,}" for each in recorded.values())]
        for name in reasons
    ]
    items = [_items_table(name, each) for name, each in recorded.items() if "items" in each]
    return [Table("Recordings", columns, rows), *items]


def _items_table(name: str, recorded: Mapping[str, Any]) -> Table:
    """The items held in the most recordings; ties are ordered by use."""
    kinds = recorded["items"]
    totals = {item: tuple(counts.get(item, 0) for counts in kinds.values()) for each in kinds.values() for item in each}
    shown = sorted(totals, key=lambda item: (tuple(-count for count in totals[item]), item))[:SHOWN_ITEMS]
    rows: Rows = [[item, *(f"{count:,}" for count in totals[item])] for item in shown]
    note = (
        "Held: recordings in whose inventory the item is at some time. Others: how often, by the game's own counts. "
        f"The {len(shown)} of {len(totals)} items that are held in the most recordings; stats.json has more."
    )
    return Table(f"Items in {name}", ["", *kinds], rows, note)
