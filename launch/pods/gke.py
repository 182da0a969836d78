"""Start a training job on a TPU pod of Google Kubernetes Engine, as a JobSet, or through xpk.

    python launch/pods/gke.py --topology=v5e:16x16 --image=IMAGE --claim=CLAIM -- launch/train.py \
        --config=configs/foundation.py:500m,v5e-256 --config.data.train=/data/DATASET --config.workdir=/data/RUN ...
    python launch/pods/gke.py --topology=v5e:16x16 --image=IMAGE --xpk --cluster=CLUSTER -- launch/train.py ...

    python launch/pods/gke.py --topology=v5e:2x2 --image=IMAGE --claim=CLAIM --array=6 -- launch/sweep.py \
        --config=configs/sweeps/heads.py:full --config.workdir=/data/SWEEP ...

The last one runs a sweep, as an indexed Job: one pod of one host for each run, with its index in --config.index.

IMAGE is a container of this repository with the `tpu` extra installed. CLAIM is a PersistentVolumeClaim that all pods
may write to (Filestore, or a bucket through Cloud Storage FUSE); it is mounted at /data, where data and work directory
must lie. With xpk, storage is attached to the cluster instead (`xpk storage`). A job that fails or is preempted is
restarted, and resumes from its checkpoint. With --dry_run the manifest, or xpk's command, is printed only.
"""

import json
import shlex
import shutil
import subprocess
import sys
from math import prod
from typing import Any, NamedTuple

from absl import app, flags

from vpt_jax.system.paths import RemotePathError, refuse_remote_settings

_TOPOLOGY = flags.DEFINE_string("topology", "v5e:16x16", "TPU type and its shape in chips, as in launch/compile.py.")
_IMAGE = flags.DEFINE_string("image", "", "Container image.")
_CLAIM = flags.DEFINE_string("claim", "", "PersistentVolumeClaim of data and runs, mounted at /data.")
_NAME = flags.DEFINE_string("name", "vpt", "Name of the job.")
_RESTARTS = flags.DEFINE_integer("restarts", 100, "Maximum number of restarts of a failed job.", lower_bound=0)
_ARRAY = flags.DEFINE_integer("array", 0, "Number of a sweep's runs, one pod each; 0: no sweep.", lower_bound=0)
_XPK = flags.DEFINE_bool("xpk", False, "Use xpk instead of kubectl.")
_CLUSTER = flags.DEFINE_string("cluster", "", "Name of the cluster, for xpk.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print only.")
_MOUNTS = {"data": "/data", "shm": "/dev/shm"}  # noqa: S108 - shared memory of Linux
_STOPPED_STATUS = (
    75  # exit status of training that was stopped and saved: to Kubernetes a failure, so the job is restarted
)


class PodType(NamedTuple):
    """Names of a TPU type in Google Cloud."""

    accelerator: str  # label of GKE's nodes
    xpk: str  # prefix of xpk's name
    xpk_units: int  # per chip, in the number after the prefix
    host_chips: int  # chips per host, in a slice of several hosts


POD_TYPES = {
    "v5e": PodType("tpu-v5-lite-podslice", "v5litepod", 1, 4),
    "v5p": PodType("tpu-v5p-slice", "v5p", 2, 4),
    "v6e": PodType("tpu-v6e-slice", "v6e", 1, 4),
}


def main(arguments: list[str]) -> None:
    """Check the flags, and submit the job by kubectl or xpk, or print it."""
    if len(arguments) < 2 or not _IMAGE.value:
        sys.exit("error: give a program and a container image: --image=IMAGE -- launch/train.py --config=...")
    kind, _, shape = _TOPOLOGY.value.partition(":")
    if kind not in POD_TYPES or not all(size.isdigit() for size in shape.split("x")):
        sys.exit(f"error: no topology {_TOPOLOGY.value!r}: names are like v5e:16x16 ({', '.join(POD_TYPES)})")
    if not (_CLUSTER.value if _XPK.value else _CLAIM.value):
        sys.exit(
            "error: " + ("--xpk needs --cluster" if _XPK.value else "--claim is needed: pods lose their own disks")
        )
    try:  # checked here: on the cluster, the job would fail at every restart
        refuse_remote_settings(arguments[1:])
    except RemotePathError as error:
        sys.exit(f"error: {error}")
    if _ARRAY.value and (_XPK.value or hosts_of(POD_TYPES[kind], shape) > 1):
        sys.exit("error: --array is for kubectl, and for topologies of one host, such as v5e:2x2")
    added = ["--config.distributed.coordinator=auto", f"--config.stopped_status={_STOPPED_STATUS}"]
    if _ARRAY.value:
        added = ["--config.index=$(JOB_COMPLETION_INDEX)"]  # expanded by Kubernetes
    program = ["python", *arguments[1:], *added]
    chips = prod(map(int, shape.split("x")))
    if _XPK.value:
        command, text = xpk_command(POD_TYPES[kind], chips, program), ""
    else:
        command, text = ["kubectl", "apply", "-f", "-"], json.dumps(job_set(POD_TYPES[kind], shape, program), indent=1)
    if _DRY_RUN.value:
        print(text or shlex.join(command))
        return
    if (found := shutil.which(command[0])) is None:
        sys.exit(f"error: there is no {command[0]} here: install it, or add --dry_run")
    sys.exit(subprocess.run([found, *command[1:]], input=text, text=True, check=False).returncode)  # noqa: S603


def hosts_of(pod: PodType, shape: str) -> int:
    """Number of hosts of a slice."""
    return max(1, prod(map(int, shape.split("x"))) // pod.host_chips)


def job_set(pod: PodType, shape: str, program: list[str]) -> dict[str, Any]:
    """A Kubernetes JobSet manifest: one pod per host of the slice, all restarted if one fails.

    Of a sweep, one pod for each run, restarted on its own.
    """
    chips = prod(map(int, shape.split("x")))
    hosts = hosts_of(pod, shape)
    container = {
        "name": "train",
        "image": _IMAGE.value,
        "command": program,
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}],  # from Google's guide to TPUs on GKE
        # Data workers pass batches in shared memory, of which a pod has 64 MB by default.
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in _MOUNTS.items()],
        "resources": {"limits": {"google.com/tpu": chips // hosts}},
    }
    pod_spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 180,  # to save a checkpoint
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": pod.accelerator,
            "cloud.google.com/gke-tpu-topology": shape,
        },
        "containers": [container],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": _CLAIM.value}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    }
    pods = _ARRAY.value or hosts
    job_spec: dict[str, Any] = {"parallelism": pods, "completions": pods, "template": {"spec": pod_spec}}
    if _ARRAY.value:
        job_spec |= {"completionMode": "Indexed", "backoffLimitPerIndex": _RESTARTS.value}
    else:
        job_spec["backoffLimit"] = 0
    one_slice = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": _NAME.value,
            "annotations": {} if _ARRAY.value else one_slice,
        },
        "spec": {
            "failurePolicy": {"maxRestarts": _RESTARTS.value},
            "replicatedJobs": [{"name": "slice", "replicas": 1, "template": {"spec": job_spec}}],
        },
    }


def xpk_command(pod: PodType, chips: int, program: list[str]) -> list[str]:
    """The xpk command that creates the workload."""
    return [
        "xpk", "workload", "create", f"--cluster={_CLUSTER.value}", f"--workload={_NAME.value}",
        f"--tpu-type={pod.xpk}-{chips * pod.xpk_units}", f"--docker-image={_IMAGE.value}",
        f"--max-restarts={_RESTARTS.value}", f"--command={shlex.join(program)}",
    ]  # fmt: skip


if __name__ == "__main__":
    app.run(main)
