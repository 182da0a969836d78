"""Stages of supervised training, each a row of `STAGES`: its model, objective, data, baselines and report.

A new objective is a file like `behavioural_cloning.py` and a row here. Reinforcement learning is no row: it shares the
model's kind alone (`MODEL_OF_STAGE`), and `ppg/` has the rest. Checkpoints and `launch/compile.py` read this table, so
it imports no data libraries.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from vpt_jax.actions.space import ActionSpace
from vpt_jax.evaluation.baselines import (
    FactoredMarginal,
    Marginal,
    NoMarginal,
    factored_policy_baselines,
    idm_baselines,
    policy_baselines,
)
from vpt_jax.models import presets
from vpt_jax.models.flops import idm_flops, latent_action_flops, latent_idm_flops, policy_flops
from vpt_jax.models.presets import IDMS, POLICIES, make_idm, make_latent_actions, make_latent_idm, make_policy
from vpt_jax.training.behavioural_cloning import cloning
from vpt_jax.training.inverse_dynamics import inverse_dynamics
from vpt_jax.training.latent_actions import latent_actions
from vpt_jax.training.objective import Objective

if TYPE_CHECKING:  # it needs the data libraries
    from vpt_jax.data.mixture import MixtureStream
    from vpt_jax.data.streams import Stream


@dataclass(frozen=True, eq=False)
class ModelKind:
    """Kind of trained model. Its loader is in `checkpoints.LOADERS`: checkpoints are above this table."""

    presets: Mapping[str, Any]  # sizes by the name in `config.model.preset`
    make: Callable[[Any, ActionSpace], Any]  # from `config.model`, for a space
    flops: Callable[[Any, int, int, int], float]  # of the forward pass per frame: model, height, width, chunk length
    initialized_by: "ModelKind | None" = None  # kind of the runs in `config.init_from`; None: of its own kind


POLICY = ModelKind(POLICIES, make_policy, policy_flops)
IDM = ModelKind(IDMS, make_idm, idm_flops)
LATENT_ACTIONS = ModelKind(presets.LATENT_ACTIONS, make_latent_actions, latent_action_flops)
LATENT_IDM = ModelKind(presets.LATENT_IDMS, make_latent_idm, latent_idm_flops, initialized_by=LATENT_ACTIONS)


class HeadStatistics(NamedTuple):
    """Statistics of the data that a head needs, in the form of its actions."""

    # Actions' frequencies: initial biases of the head.
    marginal: type[Marginal] | type[FactoredMarginal] | type[NoMarginal]
    # Training and held-out stream -> metrics of predictors that see no frame.
    baselines: Callable[["Stream | MixtureStream", "Stream"], dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Stage:
    """A value of `config.stage`: everything in which supervised stages differ."""

    title: str  # of the report
    input_description: str  # a sentence of the report: which frames the model sees
    model: ModelKind
    # Model, shape of the frames, and marginal or None (heads without an initial bias) -> objective.
    objective: Callable[..., Objective]
    heads: Mapping[str, "HeadStatistics"]  # by the name in `config.model.head`; the first is the default
    # True: independent windows (`WindowStream`), False: contiguous streams (`Stream`). No class, which would import the
    # data libraries.
    windows: bool
    predicts_actions: bool = True  # False: no report, which compares predicted and recorded actions
    options: Mapping[str, str] = field(default_factory=dict)  # further arguments of the objective: their config fields


STAGES = {
    "policy": Stage(
        title="Behavioural cloning",
        input_description="The policy predicts the player's next action from the recorded frames so far.",
        model=POLICY,
        objective=cloning,
        heads={
            "joint": HeadStatistics(Marginal, policy_baselines),
            "factored": HeadStatistics(FactoredMarginal, factored_policy_baselines),
            "autoregressive": HeadStatistics(FactoredMarginal, factored_policy_baselines),
        },
        windows=False,
    ),
    "idm": Stage(
        title="Inverse dynamics",
        input_description="The model predicts the action from the frames before and after.",
        model=IDM,
        objective=inverse_dynamics,
        heads={"factored": HeadStatistics(FactoredMarginal, idm_baselines)},
        windows=True,
        options={
            "augmented": "data.augment",
            "mirrored": "data.mirror",
            "temporal_difference": "initial.temporal_difference",
        },
    ),
    "latent_actions": Stage(
        title="Latent actions",
        input_description="The model predicts the next frame from a frame and codes of the pair.",
        model=LATENT_ACTIONS,
        objective=latent_actions,
        heads={"none": HeadStatistics(NoMarginal, lambda train, valid: {})},
        windows=True,
        predicts_actions=False,
        options={
            "mirrored": "data.mirror",
            "commitment_weight": "loss.commitment_weight",
            "entropy_weight": "loss.entropy_weight",
        },
    ),
    "latent_idm": Stage(
        title="Inverse dynamics from latent actions",
        input_description="The model predicts the action from the codes of the frame pairs before and after.",
        model=LATENT_IDM,
        objective=inverse_dynamics,
        heads={"factored": HeadStatistics(FactoredMarginal, idm_baselines)},
        windows=True,
        options={"augmented": "data.augment", "mirrored": "data.mirror"},
    ),
}


def head_statistics(config: Any) -> HeadStatistics:
    """Statistics of the head that a config names."""
    heads = STAGES[config.stage].heads
    return heads[config.model.get("head", next(iter(heads)))]


PPG_STAGE = "ppg"
MODEL_OF_STAGE = {name: stage.model for name, stage in STAGES.items()} | {PPG_STAGE: POLICY}
