"""The choice of the rematerialization by the compiled step's memory."""

import jax
import jax.monitoring
import numpy as np
import pytest

from configs import foundation, rl_doom
from vpt_jax import parallel
from vpt_jax.actions.minerl import MINERL
from vpt_jax.models.remat import REMAT
from vpt_jax.system.errors import ConfigError
from vpt_jax.training import setup as supervised
from vpt_jax.training.ppg import setup as ppg
from vpt_jax.training.remat_choice import MIB, StepToFit, check_remat, first_that_fits, memory_limit, with_remat
from vpt_jax.training.roofline import CHIPS, program_bytes
from vpt_jax.training.stages import head_statistics

FRAME = (16, 16, 3)


@pytest.fixture
def mesh():
    return parallel.make_mesh(devices=jax.devices()[:1])


def step_of(mebibytes, mesh):
    """A real compiled program that needs about so much memory."""
    sharding = parallel.batch_sharding(mesh)
    numbers = jax.ShapeDtypeStruct((mebibytes * MIB // 4,), np.float32, sharding=sharding)
    return StepToFit(jax.jit(lambda x: x + 1, donate_argnums=0).lower(numbers), ())


NEEDED = {"none": 90, "convolutions": 60, "stacks": 30}  # MiB


@pytest.mark.parametrize(
    ("limit", "chosen", "tried"),
    [(200, "none", "none needs 0.09 GiB;"), (80, "convolutions", "none needs 0.09 GiB, convolutions needs 0.06 GiB;"),
     (40, "stacks", "stacks needs 0.03 GiB;"), (32, "stacks", "stacks, which may not fit: raise"),
     (None, "none", "auto: none, since the memory of these devices is not known")],
)  # fmt: skip
def test_the_first_choice_that_fits_is_taken_and_the_memory_of_each_tried_is_logged(mesh, capsys, limit, chosen, tried):
    limit = limit and limit * MIB
    built = []

    def build(remat):
        built.append(remat)
        return remat

    assert first_that_fits(build, lambda remat: step_of(NEEDED[remat], mesh), mesh, limit) == chosen
    assert built == list(REMAT[: REMAT.index(chosen) + 1])
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"config.model.remat=auto: {chosen}")
    assert tried in line


def test_what_stays_in_memory_besides_counts(mesh):
    other = jax.ShapeDtypeStruct((8 * MIB,), np.float32, sharding=parallel.batch_sharding(mesh))
    steps = lambda remat: step_of(NEEDED[remat], mesh)._replace(resident=[other, other])  # noqa: E731
    assert first_that_fits(str, steps, mesh, 110 * MIB) == "stacks"  # 30 + 64
    assert first_that_fits(str, steps, mesh, 140 * MIB) == "convolutions"


def test_a_program_that_the_compiler_cannot_place_does_not_fit(mesh, capsys):
    class Lowered:
        def __init__(self, remat):
            self.remat = remat

        def compile(self):
            if self.remat == "none":
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm")
            if self.remat == "stacks":
                raise jax.errors.JaxRuntimeError("INTERNAL: broken")
            return step_of(1, mesh).lowered.compile()

    assert first_that_fits(str, lambda remat: StepToFit(Lowered(remat), ()), mesh, 90 * MIB) == "convolutions"
    assert "none needs more than the compiler can place, convolutions needs 0.00 GiB" in capsys.readouterr().out
    with pytest.raises(jax.errors.JaxRuntimeError, match="broken"):
        first_that_fits(str, lambda remat: StepToFit(Lowered("stacks"), ()), mesh, 90 * MIB)


def test_all_hosts_end_if_the_compiler_fails_on_one(mesh, monkeypatch):
    monkeypatch.setattr(parallel, "gather_from_hosts", lambda own: [own, -1])
    with pytest.raises(ConfigError, match=r"another host failed to compile the step with config\.model\.remat=none"):
        first_that_fits(str, lambda remat: step_of(1, mesh), mesh, 90 * MIB)


class Device:
    """Attributes of a device that `memory_limit` reads."""

    def __init__(self, kind, stats, process_index=0):
        self.device_kind, self.stats, self.process_index = kind, stats, process_index

    def memory_stats(self):
        if isinstance(self.stats, Exception):
            raise self.stats
        return self.stats


UNATTACHED = jax.errors.JaxRuntimeError("INVALID_ARGUMENT: MemoryStats is only supported for addressable PjRt devices.")


@pytest.mark.parametrize(
    ("devices", "limit"),
    [([Device("NVIDIA H200", {"bytes_limit": 9 * MIB})], 9 * MIB),
     ([Device("NVIDIA H200", {"bytes_limit": 9 * MIB}), Device("NVIDIA H200", {"bytes_limit": 8 * MIB})], 8 * MIB),
     ([Device("NVIDIA H200", {"bytes_limit": 9 * MIB}), Device("NVIDIA H200", UNATTACHED, process_index=1)], 9 * MIB),
     ([Device("TPU v5 lite", UNATTACHED)], CHIPS["TPU v5 lite"].memory),
     ([Device("TPU v5 lite", None)], CHIPS["TPU v5 lite"].memory),
     ([Device("cpu", None)], None)],
)  # fmt: skip
def test_the_limit_is_that_of_the_device_with_the_least_memory(devices, limit):
    class Devices:
        def __init__(self):
            self.devices = np.array(devices)

    assert memory_limit(Devices()) == limit


def test_this_machine_has_devices_of_unknown_memory(mesh):
    assert memory_limit(mesh) is None


def small_config(stage):
    if stage == "ppg":
        config = rl_doom.get_config()
        config.num_envs, config.unroll_length = 2, 4
    else:
        config = foundation.get_config("demo")
        config.data.batch = config.data.valid_batch = 2
        config.data.length = 4
        config.optimizer.name = "adam"
    config.model.preset, config.model.remat = "nano", "auto"
    return config


def make_setup(stage, config, mesh):
    if stage == "ppg":
        return ppg.make_setup(config, mesh)
    marginal = head_statistics(config).marginal.uniform(MINERL)
    return supervised.make_setup(config, mesh, FRAME, marginal, 10)


def lower(stage, setup, config, mesh):
    if stage == "ppg":
        return setup.learner.wake.lower(*ppg.wake_arguments(config, mesh, setup))
    return setup.step.lower(setup.shapes, supervised.batch_shapes(config, mesh, FRAME))


def use_limit(monkeypatch, stage, limit):
    module = "vpt_jax.training.ppg.setup" if stage == "ppg" else "vpt_jax.training.setup"
    monkeypatch.setattr(f"{module}.memory_limit", lambda mesh: limit)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["policy", "ppg"])
def test_a_setup_has_the_step_that_was_chosen(stage, mesh, monkeypatch):
    config, texts = small_config(stage), set()
    for limit, remat in ((1, "stacks"), (2**40, "none")):
        use_limit(monkeypatch, stage, limit)
        with jax.set_mesh(mesh):
            expected = lower(stage, make_setup(stage, with_remat(config, remat), mesh), config, mesh).as_text()
            assert lower(stage, make_setup(stage, config, mesh), config, mesh).as_text() == expected
        texts.add(expected)
    assert len(texts) == 2
    assert config.model.remat == "auto"  # which the run's files state


def test_the_chosen_step_is_compiled_once(mesh, monkeypatch):
    """With the arguments of training, which are arrays on the mesh."""
    use_limit(monkeypatch, "policy", 2**40)
    config, compiled = small_config("policy"), []
    setup = make_setup("policy", config, mesh)

    def listen(name, *_, **__):
        if name.endswith("backend_compile_duration"):
            compiled.append(name)

    with jax.set_mesh(mesh):
        state = setup.init()
        shapes = supervised.batch_shapes(config, mesh, FRAME)
        batch = parallel.global_batch(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), mesh, 2)
        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            state, metrics = setup.step(state, batch)
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)
    assert np.isfinite(metrics["loss"])
    assert compiled == []


def test_program_bytes_are_arguments_results_and_temporaries(mesh):
    assert program_bytes(step_of(4, mesh).lowered.compile()) == pytest.approx(4 * MIB, abs=1e5)  # donated


@pytest.mark.parametrize("remat", ["half", "", "None"])
def test_other_words_are_refused(remat):
    with pytest.raises(ConfigError, match=f"config.model.remat is '{remat}'; choose one of none, convolutions, stacks"):
        check_remat(with_remat(small_config("policy"), remat))


def test_all_choices_are_accepted():
    for remat in (*REMAT, "auto"):
        check_remat(with_remat(small_config("policy"), remat))


@pytest.mark.slow
def test_hosts_choose_together_and_one_says_so(launcher, tmp_path):
    output = launcher.run(tmp_path, "--config.model.remat=auto", "--config.steps=3", processes=2)
    assert output.count("config.model.remat=auto: none, since the memory of these devices is not known") == 1
