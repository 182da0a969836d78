"""Mesh layouts fit the chips of their machines and divide what they shard; values of the game configs."""

import operator

import pytest

from configs import evaluate, foundation, idm, rl_diamond, rl_doom, rl_luanti
from configs.base import SMALL
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.models.presets import IDMS, POLICIES
from vpt_jax.system.errors import ConfigError
from vpt_jax.training.ppg import setup as ppg
from vpt_jax.training.setup import check, make_mesh

CHIPS = {"gpu": 1, "gpu-8": 8, "v5e-256": 256, "v5p-128": 128, "v6e-256": 256}
LAYOUTS = [
    (module, size, machine)
    for module, sizes in ((foundation, ("500m", "248m", "71m")), (idm, ("paper", "paper_text")))
    for size in sizes
    for machine in module.MACHINES
]


@pytest.mark.parametrize(("module", "size", "machine"), LAYOUTS)
def test_layouts_divide_what_they_shard(module, size, machine):
    config, plain = (module.get_config(variant) for variant in (f"{size},{machine}", size))
    data, fsdp, tensor = (config.mesh[axis] for axis in ("data", "fsdp", "tensor"))
    chips = CHIPS[machine]
    data = chips // (fsdp * tensor) if data == -1 else data
    assert data * fsdp * tensor == chips
    assert config.data.batch % (data * fsdp) == config.data.valid_batch % (data * fsdp) == 0
    assert config.data.batch // (data * fsdp) % config.data.grad_accum_steps == 0
    assert {**POLICIES, **IDMS}[config.model.preset]["heads"] % tensor == 0
    assert 0.95 < config.data.batch / plain.data.batch < 1.17  # near the paper's
    assert config.optimizer == plain.optimizer


def test_an_unknown_machine_is_named():
    with pytest.raises(ValueError, match="has no machine 'v9'; choose one of gpu, gpu-8"):
        foundation.get_config("500m,v9")
    with pytest.raises(ValueError, match="has no machine 'gpu-8'; choose one of cpu"):
        foundation.get_config("5m,gpu-8")


@pytest.mark.parametrize(("module", "paper", "batch"), [(foundation, "71m", 880), (idm, "paper", 128)])
@pytest.mark.parametrize("size", SMALL)
def test_small_sizes_have_a_batch_and_a_learning_rate_of_their_own(module, paper, batch, size):
    config, of_paper, cpu = (module.get_config(variant) for variant in (size, paper, f"{size},cpu"))
    check(config, make_mesh(config))
    scaled = of_paper.optimizer.learning_rate * (config.data.batch / batch) ** 0.5
    assert config.optimizer.learning_rate == pytest.approx(scaled, rel=0.1)
    assert (config.model.dtype, cpu.model.dtype) == ("bfloat16", "float32")
    assert cpu.data.batch == config.data.batch


DIAMOND = {  # of all variants: the paper's table 6, and ten minutes at 20 steps per second
    "game.name": "minerl", "game.arguments.seconds": 12000 / 20, "height": 128, "width": 128, "num_envs": 40,
    "unroll_length": 128, "updates_per_rollout": 48, "steps": 4000, "model.preset": "2x", "model.dtype": "bfloat16",
    "optimizer.weight_decay": 0.04, "optimizer.clip_norm": 5, "ppg.discount": 0.999, "ppg.gae_lambda": 0.95,
    "ppg.clip_range": 0.2, "ppg.sleep_value_coef": 0.5, "ppg.aux_value_coef": 0.5, "ppg.kl_old_policy_coef": 1,
    "ppg.kl_pretrained_decay": 0.9995, "ppg.sleep_cycles": 2,
    # from PPG's code, where the paper gives no value
    "ppg.wake_cycles": 1, "ppg.wake_value_coef": 0.5, "ppg.normalize_advantages": True, "ppg.shuffle_segments": True,
    "ppg.sleep_optimizer": True, "ppg.bootstrap_on_truncation": False, "game.stagger": True,
}  # fmt: skip
RUNS = {  # pretrained or not, rho, entropy bonus, learning rate, rewards
    "main": (True, 0.2, 0, 2e-5, "diamond"),
    "scratch": (False, 0, 0.01, 2e-5, "diamond"),
    "no_kl_penalty": (True, 0, 0, 3e-6, "diamond"),
    "house": (True, 0.4, 0, 6e-5, "diamond_even"),
}


@pytest.mark.parametrize("variant", RUNS)
def test_diamond_runs_have_the_papers_values(variant):
    config = rl_diamond.get_config(variant)
    assert {field: operator.attrgetter(field)(config) for field in DIAMOND} == DIAMOND
    learning = config.ppg.kl_pretrained_coef, config.ppg.entropy_coef, config.optimizer.learning_rate, config.rewards
    assert (bool(config.init_from), *learning) == RUNS[variant]


@pytest.mark.parametrize(
    "config",
    [rl_doom.get_config(), rl_luanti.get_config(), *map(rl_diamond.get_config, RUNS)],
    ids=["doom", "luanti", *RUNS],
)
def test_configs_of_games_can_be_run(config):
    config.init_from = "somewhere"
    ppg.check(config, make_mesh(config))
    ppg.make_ppg_config(config)
    ppg.make_optimizer(config)
    assert config.stage == "ppg"


@pytest.mark.parametrize(("variant", "rewards"), [("doom", "explore"), ("minerl", "diamond"), ("luanti", "diamond")])
def test_every_game_is_evaluated_with_its_rewards(variant, rewards):
    config = evaluate.get_config(variant)
    assert (config.game.name, config.rewards) == (variant, rewards)
    assert config.game.arguments.get("fresh", True)


def test_the_papers_evaluation():
    """More than 2,500 episodes of 72,000 steps."""
    config = evaluate.get_config("paper")
    assert (config.game.name, config.game.arguments.seconds * 20, config.episodes) == ("minerl", 72_000, 2500)
    assert {"log", "crafting_table", "stone_pickaxe"} <= REWARDS[config.rewards].keys()
    assert {reward.each for reward in REWARDS[config.rewards].values()} == {1}
    assert evaluate.get_config("minerl").game.arguments.seconds * 20 == 12_000


def test_an_unknown_stage_is_named():
    config = foundation.get_config("demo")
    config.stage = "dreaming"
    with pytest.raises(
        ConfigError, match=r"config\.stage is 'dreaming'; choose one of policy, idm, latent_actions, latent_idm, ppg"
    ):
        check(config, make_mesh(config))


def test_an_unknown_variant_is_named():
    with pytest.raises(ValueError, match="no variant 'gold'; choose one of main, scratch, no_kl_penalty, house"):
        rl_diamond.get_config("gold")
