"""The Markdown table of `launch/gpu_measurements.py`, from the results of its parts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]  # as `gpu_measurements.measure` returns it
# Columns that a train step's rows show.
_STEP = ("preset", "remat", "rows", "length", "frames/s", "ms", "TFLOP/s", "of the peak")
_MEMORY = ("peak memory MB", "program MB")
_LINE = 200  # characters of a failed part's last line that are shown


def markdown(results: Sequence[Result], minutes: float) -> str:
    """The whole table: what was measured, by section, then what was not, and why."""
    machine = next((result["machine"] for result in results if result.get("machine")), "no part has been measured yet")
    sections = [f"# Measurements\n\n{machine}; all parts took {minutes:.1f} minutes.", *_sections(results)]
    if missing := [_failure(result) for result in results if result["status"] != "done"]:
        sections.append("\n".join(["## Not measured", "", *missing]))
    sections.append("\n".join(["## Commands", "", *_commands(results)]))
    return "\n\n".join(sections) + "\n"


def _failure(result: Result) -> str:
    """Why a part was not measured, with the last line of its output."""
    summary: str = result["summary"]
    last = summary.strip().rpartition("\n")[2]
    return f"- `{result['name']}`: {result['status']}" + (f" ({last[:_LINE]})" if last else "")


def _sections(results: Sequence[Result]) -> Iterator[str]:
    done = [result for result in results if result["status"] == "done"]
    steps = [result for result in done if result["kind"] == "train_step"]
    if steps:
        yield "## Training steps\n\n" + markdown_table(step_rows(steps, ceiling(done)))
    for result in steps:
        if result["kernels"]:
            yield f"## Largest kernels of `{result['name']}`\n\n" + markdown_table(result["kernels"])
    for kind in ("ceiling", "temporal_conv", "precision", "label", "torch"):
        for result in done:
            if result["kind"] == kind:
                yield f"## `{result['name']}`\n\n" + markdown_table(result["rows"])
    if flags := flag_rows(done):
        yield "## XLA flags\n\n" + markdown_table(flags)
    for result in done:
        if result["kind"] == "goldens":
            yield f"## Goldens in float32\n\n{result['summary']}"


def _commands(results: Sequence[Result]) -> Iterator[str]:
    for result in results:
        flag = f"XLA_FLAGS={result['flag']} " if result["flag"] else ""
        command = " ".join(["python", *map(_relative, result["command"][1:])])
        yield f"- `{result['name']}` ({result['seconds']:.0f} s): `{flag}{command}`"


def _relative(argument: str) -> str:
    """Program of a command as it is called in the repository's folder."""
    return argument[argument.index("launch/") :] if argument.endswith("launch/bench.py") else argument


def ceiling(results: Sequence[Result]) -> float:
    """Largest TFLOP/s of the ceiling's rows; 0: it has not been measured."""
    rows = [row for result in results if result["kind"] == "ceiling" for row in result["rows"]]
    return max((_number(row["TFLOP/s"]) for row in rows), default=0.0)


def step_rows(steps: Sequence[Result], largest: float) -> list[dict[str, str]]:
    """A row for each training step, with its share of the ceiling and its compile times, first and from the cache."""
    again = {result["name"].removesuffix("-again"): result for result in steps if result["name"].endswith("-again")}
    rows = []
    for result in steps:
        if result["name"].endswith("-again"):
            continue
        [row] = result["rows"]
        share = f"{_number(row['TFLOP/s']) / largest:.1%}" if largest else ""
        cached = again[result["name"]]["rows"][0]["compile s"] if result["name"] in again else ""
        compiling = {"compile s": row["compile s"], "from the cache s": cached}
        row = {name: row[name] for name in _STEP} | {"of the ceiling": share} | {name: row[name] for name in _MEMORY}
        rows.append(row | compiling)
    return rows


def flag_rows(results: Sequence[Result]) -> list[dict[str, str]]:
    """Speed and compile time with each flag, relative to the same step without."""
    flagged = [result for result in results if result["kind"] == "flags"]
    rows = []
    for result in flagged:
        name = result["name"].partition("-flag-")[0]
        if plain := next((other for other in results if other["name"] == name), None):
            [row], [without] = result["rows"], plain["rows"]
            ratio = _number(row["frames/s"]) / _number(without["frames/s"])
            rows.append({
                "flag": f"`{result['flag']}`", "preset": row["preset"], "speed ratio": f"{ratio:.2f}",
                "compile s": row["compile s"], "compile s without": without["compile s"],
            })  # fmt: skip
    return rows


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows under the columns of the first, in Markdown."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row[name].replace("|", "/") for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
