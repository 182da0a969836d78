"""Human against explored play for the inverse dynamics model: BCO's loop in small (fields: configs/explored.py).

Stages are as in launch/pipeline.py: programs that you can run yourself, printed, and skipped once they are done.
"""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

from demo.explored_report import RANDOM, SCRIPTED, Runs, make_experiments
from demo.stages import Stage, checkpoint, flags, make_stages, program, results_folder
from ml_collections import ConfigDict

from vpt_jax.configs.record import CHOOSING_SEED, HELD_OUT_SEED
from vpt_jax.report.experiments import verdict_lines, write_experiment, write_experiments_page
from vpt_jax.system import command_line
from vpt_jax.system.errors import ConfigError

ROOT = Path(__file__).parents[1]
stage, arguments = partial(program, ROOT), partial(flags, ROOT)
# Seeds of the first episodes: of a repetition's own play, and of play by its policies.
SEEDS_PER_REPETITION = 10_000
POLICY_SEED = 5_000_000


def run(config: ConfigDict) -> None:
    """Run all stages that are not done, and write the results."""
    check(config)
    folder = Path(config.workdir).resolve()
    make_stages(config, stages(config, folder), ROOT).run(config.max_parallel)
    repetitions = [runs_of(config, folder, seed) for seed in config.seeds]
    experiments = make_experiments(repetitions, f"level {config.level}, frames of {config.size} pixels")
    for experiment_name, experiment in experiments.items():
        write_experiment(results_folder(config) / f"{experiment_name}.json", experiment)
    title, page = "Scripted against explored play for the inverse dynamics model", folder / "report.html"
    write_experiments_page(page, title, [*experiments.values()])
    verdicts = [
        line for experiment in experiments.values() for line in verdict_lines(experiment.verdicts, experiment.title)
    ]
    print("\n" + "\n".join(verdicts) + f"\nfigures: {page}", flush=True)


def check(config: ConfigDict) -> None:
    """Validate fields that would fail only in a later stage."""
    for field in ("rounds", "episodes", "held_out", "policy_steps"):
        if config[field] < 1:
            raise ConfigError(f"config.{field} is {config[field]}, and must be 1 or more")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise ConfigError(f"config.seeds is {config.seeds}: give one or more different seeds")
    minutes, steps = config.idm.minutes, config.idm.steps
    if not minutes or list(minutes) != sorted(set(minutes)) or len(steps) != len(minutes):
        raise ConfigError(
            f"config.idm is {config.idm.to_dict()}: it needs increasing minutes, and as many numbers of steps"
        )
    if (most := config.episodes * config.seconds / 60) < minutes[-1]:
        raise ConfigError(
            f"config.idm.minutes is {minutes}, and {config.episodes} episodes of {config.seconds:g} s have {most:g} "
            "minutes at most: set more config.episodes"
        )


def runs_of(config: ConfigDict, folder: Path, seed: int) -> Runs:
    """Paths of a repetition."""
    repetition = folder / f"seed-{seed}"
    sources = (SCRIPTED, RANDOM, *(f"round-{number}" for number in range(1, config.rounds + 1)))
    return Runs(
        data={source: repetition / "data" / source for source in sources},
        idms={
            source: {minutes: repetition / f"idm-{source}-{minutes:g}" for minutes in config.idm.minutes}
            for source in sources
        },
        playing=repetition / "playing",
    )


def stages(config: ConfigDict, folder: Path) -> Iterator[Stage]:
    """All stages of all repetitions."""
    for seed in config.seeds:
        runs = runs_of(config, folder, seed)
        recordings = runs.playing.with_name("recordings")
        for source in (SCRIPTED, RANDOM):
            yield record_stage(config, recordings / source, source, seed)
            yield prepare_stage(config, recordings / source, runs, source, seed, name("record", source, seed))
            yield from idm_stages(config, runs, source, seed)
        _, *labellers = runs.data  # the random agent, and every round's policy
        for labeller, source in pairwise(labellers):
            yield from policy_stages(config, runs, labeller, source, seed)
            play = runs.playing / "recordings" / source
            yield prepare_stage(config, play, runs, source, seed, name("play", source, seed))
            yield from idm_stages(config, runs, source, seed)


def name(action: str, source: str, seed: int, minutes: float = 0.0) -> str:
    """Name of a stage."""
    return f"seed {seed}, {source}: {action}" + (f" {minutes:g} minutes" if minutes else "")


def record_stage(config: ConfigDict, out: Path, source: str, seed: int) -> Stage:
    """Records play of the scripted player, with the held-out episodes, or of the random agent."""
    held_out = {"valid": (1, CHOOSING_SEED), "test": (config.held_out, HELD_OUT_SEED)}
    splits = {"train": (config.episodes, seed * SEEDS_PER_REPETITION)} | held_out
    fields: dict[str, object] = dict(out=out, height=config.size, width=config.size, seconds=config.seconds)
    for split, (episodes, first) in splits.items():
        wanted = episodes if split == "train" or source == SCRIPTED else 0
        fields |= {f"splits.{split}.episodes": wanted, f"splits.{split}.seed": first}
        fields |= {f"splits.{split}.levels": (config.level,)}
    if source == RANDOM:
        fields |= {"players.runner": 0.0, "players.random": 1.0}
    settings = arguments("record:demo", config.record, **fields)
    return stage(name("record", source, seed), "record.py", settings)


def prepare_stage(config: ConfigDict, recordings: Path, runs: Runs, source: str, seed: int, recorded: str) -> Stage:
    """Prepares the dataset of a player's recordings."""
    settings = arguments("prepare", recordings=recordings, out=runs.data[source], height=config.size, width=config.size)
    return stage(name("prepare", source, seed), "prepare.py", settings, [recorded])


def idm_stages(config: ConfigDict, runs: Runs, source: str, seed: int) -> Iterator[Stage]:
    """Trains a model on each number of minutes of a player, and scores it on the scripted player's held-out play.

    The split `valid` selects nothing: the model is that of the last step.
    """
    held_out = runs.data[SCRIPTED]
    prepared = [name("prepare", SCRIPTED, seed), name("prepare", source, seed)]
    for (minutes, workdir), steps in zip(runs.idms[source].items(), config.idm.steps, strict=True):
        data = {"data.train": runs.data[source], "data.minutes": minutes, "data.valid": held_out}
        fields = data | {"workdir": workdir, "steps": steps, "seed": seed, "report": False}
        settings = arguments("idm:demo", config.train_idm, **fields)
        trained = name("train an inverse dynamics model on", source, seed, minutes)
        yield stage(trained, "train.py", settings, dict.fromkeys(prepared), checkpoint(workdir, steps))
        fields = dict(data=held_out, split="test", idm=workdir, mirror=True, out=workdir / "score")
        settings = ("score", *arguments("data", config.score, **fields))
        yield stage(name("score the model of", source, seed, minutes), "data.py", settings, [trained])


def policy_stages(config: ConfigDict, runs: Runs, labeller: str, source: str, seed: int) -> Iterator[Stage]:
    """Labels the demonstrations by the model of `labeller`, clones the policy `source` from them, and lets it play."""
    demonstrations, repetition = runs.playing.with_name("recordings") / SCRIPTED / "train", runs.playing.parent
    minutes, idm = [*runs.idms[labeller].items()][-1]
    labels, policies = repetition / "data" / f"labels-{source}", [one for one in runs.data if one.startswith("round")]
    # The videos are square, as the frames that the model was trained on.
    fields: dict[str, object] = dict(videos=demonstrations, idm=idm, out=labels, mirror=True, seed=seed, aspect=(1, 1))
    settings = arguments("label", config.label, **fields)
    trained = name("train an inverse dynamics model on", labeller, seed, minutes)
    labelled, cloned = name("label the demonstrations for", source, seed), name("clone", source, seed)
    yield stage(labelled, "label.py", settings, [trained])
    fields = {"data.train": labels, "data.valid": runs.data[SCRIPTED], "seed": seed, "report": False}
    fields |= {"workdir": repetition / source, "steps": config.policy_steps}
    settings = arguments("foundation:demo", config.train_policy, **fields)
    prepared = name("prepare", SCRIPTED, seed)
    yield stage(
        cloned, "train.py", settings, [prepared, labelled], checkpoint(repetition / source, config.policy_steps)
    )
    earlier = policies[: policies.index(source) + 1]  # their results are stored, and read again for the table
    game = dict(level=config.level, seconds=config.seconds, height=config.size, width=config.size)
    settings = arguments(
        "evaluate:doom", config.evaluate, policies=tuple(f"{one}={repetition / one}" for one in earlier),
        out=runs.playing, episodes=config.episodes, seed=POLICY_SEED + seed * SEEDS_PER_REPETITION,
        **{f"game.arguments.{field}": value for field, value in game.items()},
    )  # fmt: skip
    yield stage(name("play", source, seed), "evaluate.py", settings, [cloned])


if __name__ == "__main__":
    command_line.run(run, "explored")
