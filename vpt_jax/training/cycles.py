"""Estimated time of a compiled step on a TPU: the cycles that XLA's own cost model gives to each of its operations.

XLA:TPU writes `estimated_cycles` into the compiled text, one number per fusion. Unlike the roofline
(`training/roofline.py`), they include what layouts, lanes and vector units cost. They are no measurement on a chip.

Operations run one after the other, so their cycles are added. Two kinds are not in the sum: transfers, which overlap
with computation (collectives between chips, copies and slices that are started ahead between a chip's memories), and
the few operations that the cost model leaves out, which are counted.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from vpt_jax.training.roofline import shape_bytes

_HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
_KIND = re.compile(r"\s*([\w\-]+)\(")
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_CALLS = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_INTEGER = re.compile(r"\bconstant\((\d+)\)")
_LOOP = re.compile(r"\bbody=%?([\w.\-]+)")
_BRANCHES = re.compile(
    r"\bbranch_computations=\{([^}]*)\}|\btrue_computation=%?([\w.\-]+)|\bfalse_computation=%?([\w.\-]+)"
)
_TRANSFERS = "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "copy", "slice"
# Names of values, and of work that is counted where it starts: they take no time themselves.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
    "opt-barrier", "add-dependency", "domain", "async-update", "async-done",
}  # fmt: skip
_VIEWS = "ConcatBitcast", "AllocateBuffer"  # custom calls that make no copy
_PRODUCTS = {"convolution", "dot"}
# Parts of an operation's name that are transformations of JAX and no modules.
_TRANSFORMATION = re.compile(
    r"^(?:[\w.\-]*\(.*\)|checkpoint|rematted_computation|cond|while|body|closed_call|branch_\d+_fun)$"
)


class Operation(NamedTuple):
    """Operation of a compiled program, as the chip runs it: a fusion, or an instruction outside of any fusion."""

    name: str
    kind: str
    source: str  # module, JAX operation and pass that it comes from, such as "encoder/stack_0/norm: mul (backward)"
    cycles: int  # of all its runs


class CycleEstimate(NamedTuple):
    """Estimated cycles of one run of a program on one chip."""

    operations: list[Operation]
    # Operations without an estimate, by kind: their number and the bytes of their results; those in a loop count once.
    uncounted: dict[str, tuple[int, int]]
    endless: int  # loops whose number of turns the text does not state: their bodies count once

    @property
    def cycles(self) -> int:
        """Sum over all operations."""
        return sum(operation.cycles for operation in self.operations)

    def largest(self, number: int) -> list[Operation]:
        """The operations with the most cycles, in descending order."""
        return sorted(self.operations, key=lambda operation: -operation.cycles)[:number]


@dataclass(frozen=True)
class _Line:
    name: str
    kind: str
    shape: str  # of the result
    text: str


def estimate_cycles(program: str) -> CycleEstimate:
    """Estimate of a program from its compiled text (`Compiled.as_text()`); bodies of loops count once per turn.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations, entry = _parse(program)
    operations: list[Operation] = []
    number: Counter[str] = Counter()
    size: Counter[str] = Counter()
    endless = 0
    pending = [(entry, 1)]
    while pending:
        name, runs = pending.pop()
        for line in computations[name]:
            if called := _called(line, computations):
                trips = _trips(line, computations)
                endless += trips is None
                pending += [(computation, runs * (trips or 1)) for computation in called]
            elif found := _CYCLES.search(line.text):
                operations.append(Operation(line.name, line.kind, _source(line, computations), runs * int(found[1])))
            elif not _is_free(line):
                kind = _uncounted_kind(line, computations)
                number[kind] += 1
                size[kind] += shape_bytes(line.shape)
    return CycleEstimate(operations, {kind: (number[kind], size[kind]) for kind in number}, endless)


def _parse(program: str) -> tuple[dict[str, list[_Line]], str]:
    """Lines of every computation by its name, and the name of the entry."""
    computations: dict[str, list[_Line]] = {}
    entry, current = None, None
    for text in program.splitlines():
        if header := _HEADER.match(text):
            current = computations.setdefault(header["name"], [])
            entry = header["name"] if header["entry"] else entry
        elif current is not None and (found := _INSTRUCTION.match(text)):
            current.append(_Line(found["name"], *_kind_and_shape(found["rest"]), found["rest"]))
    if entry is None:
        raise ValueError("this is no text of a compiled program: it has no ENTRY computation")
    return computations, entry


def _kind_and_shape(rest: str) -> tuple[str, str]:
    """Operation of an instruction, and the shape of its result, which stands before it."""
    depth = 0
    for end, character in enumerate(rest):  # shapes of several results are in parentheses; layouts have some too
        depth += (character in "({[") - (character in ")}]")
        if character == " " and depth == 0:
            found = _KIND.match(rest, end)
            return (found[1] if found else ""), rest[:end]
    return "", rest


def _called(line: _Line, computations: dict[str, list[_Line]]) -> list[str]:
    """Computations that an instruction runs: a loop's body, a function, the branch with the most cycles."""
    if line.kind == "while":
        return _LOOP.findall(line.text)
    if line.kind in ("call", "async-start") and not _CYCLES.search(line.text):
        return _CALLS.findall(line.text)
    if line.kind == "conditional":
        names = [name for found in _BRANCHES.findall(line.text) for name in re.findall(r"[\w.\-]+", " ".join(found))]
        return [max(names, key=lambda name: _all_cycles(name, computations))]
    return []


def _all_cycles(name: str, computations: dict[str, list[_Line]]) -> int:
    """Cycles of a computation, with those of what it calls."""
    total = 0
    for line in computations[name]:
        if called := _called(line, computations):
            total += (_trips(line, computations) or 1) * sum(_all_cycles(other, computations) for other in called)
        elif found := _CYCLES.search(line.text):
            total += int(found[1])
    return total


def _trips(line: _Line, computations: dict[str, list[_Line]]) -> int | None:
    """Number of times that an instruction runs what it calls; None: not stated.

    Loops of `jax.lax.scan` count from 0 in steps of 1, as long as the counter is less than a constant.
    """
    if line.kind != "while":
        return 1
    if found := _TRIPS.search(line.text):
        return int(found[1])
    condition = computations[_CONDITION.findall(line.text)[0]]
    limits = {inner.name: int(found[1]) for inner in condition if (found := _INTEGER.search(inner.text))}
    less = [inner for inner in condition if inner.kind == "compare" and "direction=LT" in inner.text]
    operands = re.findall(r"%([\w.\-]+)", less[0].text) if len(less) == 1 else []
    return limits.get(operands[1]) if len(operands) == 2 else None


def _is_free(line: _Line) -> bool:
    return line.kind in _FREE or line.kind.endswith("-done") or any(f'target="{view}"' in line.text for view in _VIEWS)


def _uncounted_kind(line: _Line, computations: dict[str, list[_Line]]) -> str:
    """Kind of an operation without an estimate; a fusion that exists for a collective or a gather has its kind."""
    kind = line.kind.removesuffix("-start")
    inner = {inner.kind for name in _CALLS.findall(line.text) for inner in computations.get(name, [])}
    special = [name for name in (*_TRANSFERS[:5], "gather", "scatter", "dynamic-update-slice") if name in inner]
    return special[0] if kind == "fusion" and special else kind


def is_transfer(kind: str) -> bool:
    """Return True for a kind of `CycleEstimate.uncounted` that moves data and can overlap with computation."""
    return kind in _TRANSFERS


def _source(line: _Line, computations: dict[str, list[_Line]]) -> str:
    """Readable origin of an operation; of a fusion with a convolution or matrix product, that of the product."""
    inner = [inner for name in _CALLS.findall(line.text) for inner in computations.get(name, [])]
    products = [inner.text for inner in inner if inner.kind in _PRODUCTS]
    names = [found[1] for text in (*products, line.text, *(i.text for i in inner)) if (found := _OP_NAME.search(text))]
    return readable_source(names[0]) if names else f"{line.kind} made by the compiler"


def readable_source(op_name: str) -> str:
    """Module, operation and pass of JAX's name of an operation.

    `jit(update)/transpose(jvp(Policy))/encoder/stack_0/norm/mul` is "encoder/stack_0/norm: mul (backward)".
    """
    *path, operation = op_name.split("/")
    parts = [part for part in path if not _TRANSFORMATION.match(part)]
    # Rematerialization repeats the name of the module around it.
    modules = "/".join(part for i, part in enumerate(parts) if i == 0 or part != parts[i - 1])
    passes = list(_passes(path))
    return (f"{modules}: " if modules else "") + operation + (f" ({', '.join(passes)})" if passes else "")


def _passes(path: list[str]) -> Iterator[str]:
    if any(part.startswith("transpose(jvp") for part in path):
        yield "backward"
    if "rematted_computation" in path or any("rematted_computation" in part for part in path):
        yield "recomputed"
