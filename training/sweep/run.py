"""Ray Tune with our trials, our table and our report."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from hippodrome.training.errors import ConfigError, TrainingError, TrainingInterrupted
from hippodrome.training.interrupt import interrupt_flag

from .config import SweepConfig, trial_config
from .live import LiveTable
from .report import write_report
from .trial import train_trial

_TUNE_FOLDER = "tune"


def run_trials(folder: Path, sweep: SweepConfig, overrides: Sequence[str], *, resume: bool) -> dict[str, Any]:
    """Run a sweep, or go on with one, in the session of Ray that there is; returns the report, which is also written.

    Args:
        folder: of the sweep: `trials/` holds the runs, `tune/` what Ray Tune keeps, and the report is beside them.
        sweep: what to search.
        overrides: flags of `hippodrome train` that hold for every trial.
        resume: go on: trials that ended stay, those that were running or failed go on from their checkpoints.

    Raises:
        ConfigError: if no node has the cores and GPUs of a trial.
        TrainingError: if every trial failed.
        TrainingInterrupted: after Ctrl-C or SIGTERM; `hippodrome sweep --resume` goes on.
    """
    _require_room(sweep)
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # both signals are ours, see LiveTable
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # relative paths of a configuration mean this folder
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # else Ray Tune prints its own boxes
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trainable = tune.with_resources(
        partial(train_trial, sweep=sweep, overrides=list(overrides), folder=folder / "trials"),
        {"cpu": sweep.cores_per_trial, "gpu": sweep.gpus_per_trial},
    )
    storage = folder / _TUNE_FOLDER
    if resume and tune.Tuner.can_restore(str(storage)):
        tuner = tune.Tuner.restore(str(storage), trainable, resume_unfinished=True, resume_errored=True)
    else:
        tuner = _tuner(sweep, overrides, folder, trainable)
    with interrupt_flag() as interrupted:
        table = LiveTable(sweep, interrupted)
        internal: Any = tuner._local_tuner  # a restored tuner takes no callbacks otherwise
        internal._run_config.callbacks = [table]
        with table.shown():
            tuner.fit()
    report = write_report(folder, sweep, list(overrides), table.trials)
    if interrupted or table.unfinished:
        raise TrainingInterrupted(f"interrupted; go on with `hippodrome sweep --resume {folder}`")
    if report["finished"] == 0:
        first = next((row for row in report["trials"] if row["error"]), {"trial": "-", "error": "unknown"})
        raise TrainingError(
            f"every trial failed, {first['trial']} with: {first['error']}; {folder / 'report.json'} tells of each"
        )
    return report


def _require_room(sweep: SweepConfig) -> None:
    """Raise ConfigError where a trial would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    asked = {"CPU": ("cores_per_trial", sweep.cores_per_trial), "GPU": ("gpus_per_trial", sweep.gpus_per_trial)}
    if any(all(node.get(name, 0) >= least for name, (_, least) in asked.items()) for node in nodes):
        return
    have = "; ".join(f"{node.get('CPU', 0):g} cores and {node.get('GPU', 0):g} GPUs" for node in nodes)
    wanted = " with ".join(f"{field}={least:g}" for field, least in asked.values())
    raise ConfigError(
        f"no node has room for a trial of {wanted}: they have {have}; lower them, or join another cluster"
    )


def _tuner(sweep: SweepConfig, overrides: Sequence[str], folder: Path, trainable: Any) -> tune.Tuner:
    total = trial_config(sweep, first_values(sweep), overrides).total_env_steps
    grids = any("grid" in spec for spec in sweep.space.values())
    return tune.Tuner(
        trainable,
        param_space=param_space(sweep),
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            num_samples=sweep.samples_per_point if grids else sweep.total_trials,
            search_alg=_search(sweep),
            scheduler=_scheduler(sweep, total),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=_TUNE_FOLDER,
            storage_path=str(folder),
            failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
            verbose=0,
        ),
    )


def param_space(sweep: SweepConfig) -> dict[str, Any]:
    """The search space in Ray Tune's words."""
    makers = {
        "grid": tune.grid_search,
        "choice": tune.choice,
        "uniform": lambda bounds: tune.uniform(*bounds),
        "log_uniform": lambda bounds: tune.loguniform(*bounds),
        "integer": lambda bounds: tune.randint(bounds[0], bounds[1] + 1),
    }
    return {name: makers[kind](value) for name, spec in sweep.space.items() for kind, value in spec.items()}


def within_bounds(sweep: SweepConfig, values: dict[str, Any]) -> dict[str, Any]:
    """Values that pbt multiplied, brought back into their ranges."""
    for name, spec in sweep.space.items():
        for kind in ("uniform", "log_uniform", "integer"):
            if kind in spec:
                low, high = spec[kind]
                value = min(max(values[name], low), high)
                values[name] = round(value) if kind == "integer" else value
    return values


def first_values(sweep: SweepConfig) -> dict[str, Any]:
    """One point of the space."""
    return {name: next(iter(spec.values()))[0] for name, spec in sweep.space.items()}


def _search(sweep: SweepConfig) -> Any:
    if sweep.search == "random":
        return BasicVariantGenerator(random_state=sweep.seed)
    # As many at once as there is room for: each draw learns from those that ended before it.
    room = int(ray.cluster_resources().get("CPU", 1) // sweep.cores_per_trial)
    return ConcurrencyLimiter(OptunaSearch(seed=sweep.seed), max_concurrent=max(1, room))


def _scheduler(sweep: SweepConfig, total: int) -> Any:
    if sweep.scheduler == "asha":
        grace = sweep.grace_env_steps or max(1, total // 9)
        return ASHAScheduler(
            time_attr="env_steps", max_t=max(total, grace), grace_period=grace, reduction_factor=sweep.reduction_factor
        )
    if sweep.scheduler == "pbt":
        lists = {name: value for name, spec in sweep.space.items() for value in spec.values() if "choice" in spec}
        return PopulationBasedTraining(
            time_attr="env_steps",
            perturbation_interval=sweep.perturb_env_steps or max(1, total // 8),
            hyperparam_mutations={**param_space(sweep), **lists},
            custom_explore_fn=partial(within_bounds, sweep),
        )
    return FIFOScheduler()
