"""Plans of sweeps: runs, shared stages, names by content, selection by index, and errors of a config."""

from pathlib import Path

import pytest
from ml_collections import ConfigDict
from sweeps.fields import check_fields
from sweeps.plan import make_plan

from configs.sweeps import base, heads, hours, idm_minutes, null_actions, parameters, temporal_convolution
from tests.programs import ROOT
from vpt_jax.data.streams import NULL_RULES
from vpt_jax.models.heads import HEADS
from vpt_jax.models.presets import POLICIES
from vpt_jax.system.errors import ConfigError

SWEEPS = [heads, hours, idm_minutes, null_actions, parameters, temporal_convolution]


def small_sweep(**fields):
    """Two stages that all runs share, and one for each of four runs."""
    config = base.get_config("mine", "small")
    config.workdir, config.seeds = "/sweep", (0, 7)
    config.folders.raw = "/raw"
    config.stages.data = base.stage("prepare", "prepare", "recordings={raw}", "height=16")
    config.stages.idm = base.stage("train", "idm:demo", "data.train={data}")
    config.stages.policy = base.stage("train", "foundation:demo", "data.train={data}", "init_from={idm}", "steps=3")
    config.vary.size = ConfigDict({"fields": ("policy.model.preset",), "choices": ("nano", "tiny")})
    config.report.x = "size"
    config.update_from_flattened_dict(fields)
    return config


def by_stage(plan):
    """Names of the stages without the digest of their content, and the stages."""
    return {stage.name.rpartition("-")[0]: stage for stage in plan.stages}


def test_runs_are_all_combinations_and_equal_stages_are_shared():
    plan = make_plan(small_sweep(), ROOT)
    assert [(run.name, run.values, run.seed) for run in plan.runs] == [
        ("nano-seed0", {"size": "nano"}, 0), ("nano-seed7", {"size": "nano"}, 7),
        ("tiny-seed0", {"size": "tiny"}, 0), ("tiny-seed7", {"size": "tiny"}, 7),
    ]  # fmt: skip
    stages = by_stage(plan)
    policies = [f"policy-{run.name}" for run in plan.runs]
    assert list(stages) == ["data", "idm", *policies]
    assert stages["idm"].depends_on == (stages["data"].name,)
    for run, policy in zip(plan.runs, policies, strict=True):
        folder = Path("/sweep") / stages[policy].name
        assert run.folders["policy"] == folder
        assert run.stages == {stages[name].name for name in ("data", "idm", policy)}
        assert set(stages[policy].depends_on) == {stages["data"].name, stages["idm"].name}
        program, config, *settings = stages[policy].command[1:]
        assert (program, config) == (str(ROOT / "launch/train.py"), f"--config={ROOT}/configs/foundation.py:demo")
        assert settings == [
            f"--config.workdir={folder}", "--config.stopped_status=75",
            f"--config.data.train=/sweep/{stages['data'].name}", f"--config.init_from=/sweep/{stages['idm'].name}",
            "--config.steps=3", f"--config.model.preset={run.values['size']}", f"--config.seed={run.seed}",
        ]  # fmt: skip
    assert stages["data"].command[2:] == (
        f"--config={ROOT}/configs/prepare.py", f"--config.out=/sweep/{stages['data'].name}",
        "--config.recordings=/raw", "--config.height=16",
    )  # fmt: skip


def test_stages_are_named_by_their_content():
    """More runs, another order and another work directory change no name; settings do, also those of a dependency."""
    names = {name: stage.name for name, stage in by_stage(make_plan(small_sweep(), ROOT)).items()}
    more = small_sweep(workdir="/other", seeds=(3, 7, 0))
    more.vary.size.choices = ("1x", "tiny", "nano")
    found = {name: stage.name for name, stage in by_stage(make_plan(more, ROOT)).items()}
    assert names.items() <= found.items()
    changed = small_sweep()
    changed.stages.idm.settings = (*changed.stages.idm.settings, "steps=9")
    found = {name: stage.name for name, stage in by_stage(make_plan(changed, ROOT)).items()}
    assert [name for name in names if found[name] == names[name]] == ["data"]


def test_an_index_selects_a_run_with_all_that_it_needs():
    plan = make_plan(small_sweep(), ROOT)

    def selected(index):
        return [stage.name.rpartition("-")[0] for stage in plan.select(index)]

    assert selected("2") == ["data", "idm", "policy-tiny-seed0"]
    assert selected("shared") == ["data", "idm"]
    assert selected("") == list(by_stage(plan))
    for index in ("4", "-1", "all"):
        with pytest.raises(ConfigError, match=rf"config.index is '{index}': it must be a run, 0 to 3, or 'shared'"):
            plan.select(index)


def test_a_stage_can_need_all_runs():
    config = small_sweep()
    config.stages.play = base.stage("evaluate", "evaluate:doom", "policies={policy*}")
    plan = make_plan(config, ROOT)
    *others, play = plan.stages
    policies = [stage.name for stage in others if stage.name.startswith("policy")]
    assert play.depends_on == tuple(policies)
    assert plan.joint == {play.name}
    assert play.command[-1] == "--config.policies=" + str(
        tuple(f"{run.name}=/sweep/{policy}" for run, policy in zip(plan.runs, policies, strict=True))
    )
    assert all(play.name not in run.stages and run.folders["play"].name == play.name for run in plan.runs)
    assert play.name not in {stage.name for index in ("shared", "0") for stage in plan.select(index)}


def test_a_stage_that_reads_one_of_all_runs_needs_all_runs():
    config = small_sweep()
    config.stages.play = base.stage("evaluate", "evaluate:doom", "policies={policy*}")
    config.stages.again = base.stage("prepare", "prepare", "recordings={play}")
    plan = make_plan(config, ROOT)
    play, again = plan.stages[-2:]
    assert again.depends_on == (play.name,)
    assert plan.joint == {play.name, again.name}
    config.stages.again.settings = ("recordings={play*}",)
    with pytest.raises(ConfigError, match=r"'play' has one output, of all runs: write \{play\}"):
        make_plan(config, ROOT)


def test_a_choice_of_several_fields_is_one_value():
    config = small_sweep(seeded=())
    config.vary.size = ConfigDict({"fields": ("idm.data.minutes", "policy.steps"), "choices": ((3.0, 100), (0.5, 20))})
    plan = make_plan(config, ROOT)
    assert [run.values for run in plan.runs][::2] == [{"size": 3.0}, {"size": 0.5}]
    assert list(by_stage(plan)) == ["data", "idm-3", "policy-3", "idm-0.5", "policy-0.5"]
    assert "--config.steps=20" in by_stage(plan)["policy-0.5"].command
    assert "--config.data.minutes=0.5" in by_stage(plan)["idm-0.5"].command
    assert plan.runs[0].settings == {"idm.data.minutes": 3.0, "policy.steps": 100}


def test_listed_runs_with_equal_first_values_are_told_apart_by_all_of_them():
    config = small_sweep(seeds=(0,))
    fields = ("policy.model.preset", "policy.optimizer.learning_rate")
    config.vary.size = ConfigDict({"fields": fields, "choices": (("nano", 1e-3), ("nano", 3e-5), ("tiny", 1e-3))})
    plan = make_plan(config, ROOT)
    assert [run.values["size"] for run in plan.runs] == ["nano 0.001", "nano 3e_05", "tiny 0.001"]
    assert [run.name for run in plan.runs] == ["nano_0.001-seed0", "nano_3e_05-seed0", "tiny_0.001-seed0"]
    assert plan.runs[1].settings == {"policy.model.preset": "nano", "policy.optimizer.learning_rate": 3e-5}
    assert "--config.optimizer.learning_rate=3e-05" in by_stage(plan)["policy-nano_3e_05-seed0"].command


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(seeds=()), "config.seeds is empty"),
        (lambda c: c.vary.size.update(fields=("model.preset",)), "'model.preset': write STAGE.FIELD, .* of data, idm"),
        (lambda c: c.vary.size.update(choices=()), "config.vary.size.choices is empty"),
        (lambda c: c.vary.update(step=c.vary.size), "config.vary has the name 'step', which is also a column"),
        (lambda c: c.vary.size.update(fields=("policy.a", "policy.b")), "has 'nano': give a value for each of"),
        (lambda c: c.vary.size.update(choices=("a b", "a_b")), r"the same name: \['a_b-seed0'"),
        (lambda c: c.stages.idm.update(settings=("x={dta}",)), r"'x={dta}', and 'dta' is neither a stage nor in"),
        (lambda c: c.stages.data.update(settings=("x={policy}",)), "config.stages: data, idm, policy need each other"),
        (lambda c: c.update(seeded=("agent",)), "has 'agent', which is not in config.stages"),
        (lambda c: c.report.update(x="sizes"), "config.report.x is 'sizes': choose one of size, parameters"),
        (lambda c: c.report.update(better=(("nano", "large"),)), "config.report.better has 'large': choose among na"),
        (lambda c: c.report.update(log_x=True), "config.report.log_x needs positive numbers, and size has 'nano'"),
        (lambda c: c.report.update(series=("size",)), "config.report.series has 'size': choose among none"),
        (lambda c: c.vary.size.update(choices=(1, "all")), "is 'size', which has numbers and other values: "),
    ],
)  # fmt: skip
def test_an_invalid_sweep_is_refused_before_it_starts(change, message):
    config = small_sweep()
    change(config)
    with pytest.raises(ConfigError, match=message):
        make_plan(config, ROOT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.vary.size.update(fields=("policy.model.presett",)),
         "gives policy-nano-seed0-.* the setting model.presett=nano, and in foundation.py, the config has no field "
         "model.presett; did you mean config.model.preset"),
        (lambda c: c.update(seeded=("data",)), "data-seed0-.* the setting seed=0, and in prepare.py, .* no field seed"),
        (lambda c: c.stages.data.update(program="prepares"), "data-.* has the program 'prepares', and there is no"),
        (lambda c: c.stages.data.update(config="prepares"), "data-.* has the config 'prepares', and there is no"),
        (lambda c: c.stages.idm.update(config="idm:huge"), "idm-.*: configs/idm.py has no variant 'huge'; choose"),
    ],
)  # fmt: skip
def test_a_name_that_does_not_exist_ends_a_sweep_before_its_first_stage(change, message):
    config = small_sweep()
    check_fields(make_plan(config, ROOT))
    change(config)
    with pytest.raises(ConfigError, match=message):
        check_fields(make_plan(config, ROOT))


@pytest.mark.parametrize("variant", base.VARIANTS)
@pytest.mark.parametrize("module", SWEEPS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_sweeps_fields_are_those_of_the_programs(module, variant):
    config = module.get_config(variant)
    plan = make_plan(config, ROOT)
    assert len(plan.runs) == len(config.seeds) * len(next(iter(config.vary.values())).choices)
    assert config.report.title
    assert config.report.claim
    check_fields(plan)


def test_the_sweeps_choices_exist():
    assert set(null_actions.RULES["full"]) == set(NULL_RULES)
    assert set(heads.get_config().vary.head.choices) <= set(HEADS)
    for variant in base.VARIANTS:
        assert set(parameters.get_config(variant).vary.preset.choices) <= set(POLICIES)


def test_an_unknown_variant_is_named():
    with pytest.raises(ValueError, match=r"heads.py has no variant 'big'; choose one of demo, full, small"):
        heads.get_config("big")


def test_the_sweeps_of_one_folder_share_the_recorded_play():
    plans = [make_plan(module.get_config(), ROOT) for module in SWEEPS]
    play = {stage.name for plan in plans for stage in plan.stages if stage.name.startswith(("recordings", "videos"))}
    assert len(play) == 2
