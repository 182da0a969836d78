"""Stages of supervised training, each a row of `STAGES`: its model, objective, data, baselines and report.

A new objective is a file like `behavioural_cloning.py` and a row here. Reinforcement learning is no row: it shares the
model's kind alone (`MODEL_OF_STAGE`), and `ppg/` has the rest. Checkpoints and `launch/compile.py` read this table, so
it imports no data libraries.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vpt_jax.evaluation.baselines import FactoredMarginal, Marginal, idm_baselines, policy_baselines
from vpt_jax.models.flops import idm_flops, policy_flops
from vpt_jax.models.presets import IDMS, POLICIES, make_idm, make_policy
from vpt_jax.training.behavioural_cloning import cloning
from vpt_jax.training.inverse_dynamics import inverse_dynamics
from vpt_jax.training.objective import Objective

if TYPE_CHECKING:  # it needs the data libraries
    from vpt_jax.data.mixture import MixtureStream
    from vpt_jax.data.streams import Stream


@dataclass(frozen=True, eq=False)
class ModelKind:
    """Kind of trained model. Its loader is in `checkpoints.LOADERS`: checkpoints are above this table."""

    presets: Mapping[str, Any]  # sizes by the name in `config.model.preset`
    make: Callable[[Any], Any]  # from `config.model`
    flops: Callable[[Any, int, int, int], float]  # of the forward pass per frame: model, height, width, chunk length


POLICY = ModelKind(POLICIES, make_policy, policy_flops)
IDM = ModelKind(IDMS, make_idm, idm_flops)


@dataclass(frozen=True)
class Stage:
    """A value of `config.stage`: everything in which supervised stages differ."""

    title: str  # of the report
    input_description: str  # a sentence of the report: which frames the model sees
    model: ModelKind
    # Model, shape of the frames, and marginal or None (heads without an initial bias) -> objective.
    objective: Callable[..., Objective]
    # Actions' frequencies: initial biases of the heads.
    marginal: type[Marginal] | type[FactoredMarginal]
    # Training and held-out stream -> metrics of predictors that see no frame.
    baselines: Callable[["Stream | MixtureStream", "Stream"], dict[str, dict[str, float]]]
    # True: independent windows (`WindowStream`), False: contiguous streams (`Stream`). No class, which would import the
    # data libraries.
    windows: bool
    views: tuple[str, ...]  # of the evaluation: names from `metrics.VIEWS`
    options: Mapping[str, str] = field(default_factory=dict)  # further arguments of the objective: their config fields


STAGES = {
    "policy": Stage(
        title="Behavioural cloning",
        input_description="The policy predicts the player's next action from the recorded frames so far.",
        model=POLICY,
        objective=cloning,
        marginal=Marginal,
        baselines=policy_baselines,
        windows=False,
        views=("valid",),
    ),
    "idm": Stage(
        title="Inverse dynamics",
        input_description="The model predicts the action from the frames before and after.",
        model=IDM,
        objective=inverse_dynamics,
        marginal=FactoredMarginal,
        baselines=idm_baselines,
        windows=True,
        views=("valid", "acting"),
        options={
            "augmented": "data.augment",
            "mirrored": "data.mirror",
            "temporal_difference": "initial.temporal_difference",
        },
    ),
}
PPG_STAGE = "ppg"
MODEL_OF_STAGE = {name: stage.model for name, stage in STAGES.items()} | {PPG_STAGE: POLICY}
