"""The processor cores that this process may use, which are fewer than the machine's under Slurm, taskset or Docker."""

import math
import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


def available_cores(groups: Path = _GROUPS, own: Path = _OWN_GROUP) -> int:
    """At least 1: the cores of the affinity mask, or fewer if a control group's quota of processor time is less.

    A quota of 1.5 cores counts as 2. `groups` and `own` are where Linux tells of control groups.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [*_quotas_v2(groups, own), *_quotas_v1(groups, own)]
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas)]))


def _quotas_v2(groups: Path, own: Path) -> list[float]:
    """In cores, of the group and all that hold it: `cpu.max` is "QUOTA PERIOD" or "max PERIOD"."""
    return [
        int(words[0]) / int(words[1])
        for folder in _folders(groups, own, "")
        if len(words := _words(folder / "cpu.max")) == 2 and words[0] != "max" and int(words[1]) > 0
    ]


def _quotas_v1(groups: Path, own: Path) -> list[float]:
    quotas = []
    for folder in _folders(groups / "cpu", own, "cpu"):
        quota, period = (_words(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota and period and int(quota[0]) > 0 and int(period[0]) > 0:  # -1: none
            quotas.append(int(quota[0]) / int(period[0]))
    return quotas


def _folders(root: Path, own: Path, controller: str) -> list[Path]:
    """CPU quotas of this process's control group and its parents. In a container the group may be the root itself."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return [root]
    paths = [Path(path.lstrip("/")) for _, names, path in lines if controller in names.split(",")]
    return [root, *(root / folder for path in paths for folder in (path, *path.parents) if folder != Path("."))]


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
