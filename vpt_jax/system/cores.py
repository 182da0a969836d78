"""CPU cores available to this process: affinity mask and cgroup CPU quota (Slurm, taskset, Docker, Kubernetes)."""

import math
import os
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def available_cores(cgroup_root: Path = _CGROUP_ROOT, own_cgroup: Path = _OWN_CGROUP) -> int:
    """Number of usable CPU cores, at least 1: the affinity mask, or the cgroup CPU quota where that is smaller.

    A quota of 1.5 cores counts as 2.

    Args:
        cgroup_root: mount point of the cgroup file system.
        own_cgroup: file that lists the cgroups of this process.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [*_quotas_v2(cgroup_root, own_cgroup), *_quotas_v1(cgroup_root, own_cgroup)]
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas)]))


def _quotas_v2(cgroup_root: Path, own_cgroup: Path) -> list[float]:
    """Quotas of cgroup v2 in cores, of the group and its ancestors: `cpu.max` is "QUOTA PERIOD" or "max PERIOD"."""
    return [
        int(words[0]) / int(words[1])
        for folder in _cgroup_folders(cgroup_root, own_cgroup, "")
        if len(words := _read_words(folder / "cpu.max")) == 2 and words[0] != "max" and int(words[1]) > 0
    ]


def _quotas_v1(cgroup_root: Path, own_cgroup: Path) -> list[float]:
    """Quotas of cgroup v1 in cores: `cpu.cfs_quota_us` divided by `cpu.cfs_period_us`."""
    quotas = []
    for folder in _cgroup_folders(cgroup_root / "cpu", own_cgroup, "cpu"):
        quota, period = (_read_words(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota and period and int(quota[0]) > 0 and int(period[0]) > 0:  # -1: no quota
            quotas.append(int(quota[0]) / int(period[0]))
    return quotas


def _cgroup_folders(root: Path, own_cgroup: Path, controller: str) -> list[Path]:
    """Folders of this process's cgroup and its ancestors. In a container the group may be the root itself."""
    try:
        lines = [line.split(":", 2) for line in own_cgroup.read_text().splitlines()]
    except OSError:
        return [root]
    paths = [Path(path.lstrip("/")) for _, names, path in lines if controller in names.split(",")]
    return [root, *(root / folder for path in paths for folder in (path, *path.parents) if folder != Path("."))]


def _read_words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
