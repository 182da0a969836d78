"""Each benchmark runs as a user starts it and prints its table."""

import json
import subprocess
import sys

import pytest

from tests import programs
from tests.programs import ROOT

SMALL_RUN = "--set=model.preset=nano,data.batch=8,data.valid_batch=8,data.length=4"
SMALL = ["--size=32", "--batch=2", "--length=4", "--seconds=0.2"]


@pytest.mark.parametrize(
    ("what", "columns"),
    [
        ("loader", ["workers", "frames/s", "ms/step"]),
        ("act", ["preset", "frames/s", "ms", "TFLOP/s", "peak memory MB"]),
        pytest.param("prepare", ["by", "frames/s", "frames/s per core"], marks=pytest.mark.slow),
        pytest.param("decode", ["codec", "bytes/frame", "decoded/s", "PSNR dB"], marks=pytest.mark.slow),
        pytest.param("sizes", ["preset", "parameters", "step MB", "training frames/s"], marks=pytest.mark.slow),
        pytest.param("train_step", ["preset", "frames/s", "ms", "TFLOP/s"], marks=pytest.mark.slow),
        pytest.param("forward", ["preset", "frames/s", "ms", "TFLOP/s"], marks=pytest.mark.slow),
        pytest.param("gradient", ["preset", "frames/s", "ms", "TFLOP/s"], marks=pytest.mark.slow),
        pytest.param("ceiling", ["what", "ms", "TFLOP/s"], marks=pytest.mark.slow),
        pytest.param("rollout", ["games", "frames/s", "waiting for games"], marks=pytest.mark.slow),
        pytest.param("compile_step", ["run", "from", "tracing", "compiling"], marks=pytest.mark.slow),
        pytest.param("start", ["start", "to the first step", "compiling"], marks=pytest.mark.slow),
        pytest.param(
            "label",
            [
                "mode",
                "frames/s",
                "against exact",
                "decoded/s",
                "decoding",
                "device",
                "reading",
                "waiting for input",
                "writing",
            ],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bench_prints_machine_and_table(dataset_dir, what, columns):
    recordings = dataset_dir.parent / "recordings" / "train"
    data = {"loader": [f"--data={dataset_dir}", "--workers=1"], "decode": [f"--recordings={recordings}"],
            "act": ["--preset=nano"], "sizes": ["--presets=nano,idm:nano", "--counted=tiny", "--sizes=16"],
            "label": ["--idm=nano", "--windows=1", "--steps=2"],
            "start": [f"--data={dataset_dir}", "--starts=1", SMALL_RUN],
            "compile_step": ["--batch=8"],
            "prepare": [f"--recordings={recordings}"]}  # fmt: skip
    machine, header, *rows = programs.run("bench", what, *SMALL, *data.get(what, [])).splitlines()
    assert "jax" in machine
    assert all(column in header for column in columns)
    assert rows


def test_bench_lists_its_benchmarks():
    output = programs.run("bench", "speed", status=1)
    policies = "train_step,temporal_conv,forward,gradient,act,ceiling,precision"
    names = f"loader,decode,prepare,{policies},label,rollout,start,compile_step,sizes"
    assert f"{{{names}}}" in output


def test_an_unknown_preset_or_size_is_named():
    output = programs.run("bench", "sizes", "--presets=nano,5mm", status=1)
    assert "error: --presets has no '5mm'; choose of nano, tiny, 1m, 5m, 20m, 1x, 2x, 3x, idm:nano" in output
    assert "error: --sizes=64,big" in programs.run("bench", "sizes", "--sizes=64,big", status=1)


def test_the_policy_is_measured_without_the_data_libraries():
    loaded = "{'grain', 'tensorflow_datasets', 'array_record', 'av', 'vizdoom', 'ml_collections'} & set(sys.modules)"
    check = (
        f"import sys; sys.path.insert(0, 'launch'); import benches.training; sys.exit(str({loaded}) if {loaded} else 0)"
    )
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["forward", "gradient", "act"])
def test_pytorch_gives_the_same_outputs(what):
    pytest.importorskip("torch")
    *_, eager, compiled = programs.run("bench", what, *SMALL, "--preset=nano", "--against=torch").splitlines()
    assert eager.split()[0] == "torch"
    assert compiled.split()[0] == "torch.compile"


@pytest.mark.slow
def test_a_step_of_an_inverse_dynamics_model_is_measured_and_traced(tmp_path):
    options = "--preset=idm:nano", "--remat=convolutions", f"--trace={tmp_path}", f"--json={tmp_path}/rows.json"
    output = programs.run("bench", "train_step", *SMALL, *options)
    assert sum(line.startswith("kernel: ") for line in output.splitlines()) == 10
    [row] = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert (row["preset"], row["remat"]) == ("idm:nano", "convolutions")
    output = programs.run("bench", "temporal_conv", *SMALL, "--preset=idm:nano")
    assert [line.split()[0] for line in output.splitlines()[2:]] == ["forward", "forward"]


def test_other_benchmarks_are_for_policies():
    output = programs.run("bench", "forward", *SMALL, "--preset=idm:nano", status=1)
    assert "error: this is for policies: --preset=nano|tiny|1m|5m|20m|1x|2x|3x" in output
    output = programs.run("bench", "temporal_conv", *SMALL, "--preset=nano", status=1)
    names = "nano|tiny|1m|5m|20m|paper|paper_text"
    assert f"error: temporal_conv is for inverse dynamics models: --preset=idm:{names}" in output
