"""One trial: a run of a sweep, in a process that Ray Tune started; it may have had trials before this one."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune

from hippodrome.training.checkpoint.checkpointer import Checkpointer
from hippodrome.training.checkpoint.run import REPLAY_FOLDER
from hippodrome.training.config import save_config
from hippodrome.training.evaluation.statistics import summarize_returns
from hippodrome.training.log.progress import Progress
from hippodrome.training.loop import run_training
from hippodrome.training.prepare import prepare

from .config import SweepConfig, trial_config

POINTER = "run.json"


def train_trial(values: Mapping[str, Any], *, sweep: SweepConfig, overrides: list[str], folder: Path) -> None:
    """Train with these values in a folder of the trial's own, or go on there; report to Ray Tune.

    Args:
        values: of the search space.
        sweep: which one.
        overrides: flags that hold for every trial.
        folder: of all trials.
    """
    run = folder / tune.get_context().get_trial_id()
    config = trial_config(sweep, values, overrides)
    goes_on = (run / "config.yaml").is_file()
    run.mkdir(parents=True, exist_ok=True)
    save_config(config, run / "config.yaml")
    _take_over(run)
    reporter = _Reporter(run, points=sweep.scheduler == "pbt")
    trained = run_training(prepare(config, run if goes_on or _has_any(run) else None), run, reporter, [])
    # A trial may have ended before, and the driver been killed before it heard of that.
    reporter.env_steps = trained.update * trained.experiment.steps_per_update
    reporter.finish(trained.finish())


class _Reporter:
    """Hands what a run says on to Ray Tune; see `progress.Reporter`.

    Args:
        run: its folder.
        points: whether other trials may go on from this one: then they are told where it is.
    """

    def __init__(self, run: Path, *, points: bool):
        self.run = run
        self.points = points
        self.env_steps = 0

    def say(self, text: str) -> None:
        """A line; kept beside the run."""
        with (self.run / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def update(self, progress: Progress) -> None:
        """Report the interquartile mean of the seeds' returns, if episodes have ended."""
        self.env_steps = progress.env_steps
        returns = [each for each in progress.seed_returns if each is not None]
        if returns:
            self._report(summarize_returns(np.asarray(returns)[:, None]), final=False)

    def finish(self, result: dict[str, Any]) -> None:
        """Report the final evaluation."""
        self._report(result["return"], final=True)

    def _report(self, summary: Mapping[str, Any], *, final: bool) -> None:
        low, high = (summary["iqm_low"], summary["iqm_high"])
        metrics = {"env_steps": self.env_steps, "score": summary["iqm"], "score_low": low, "score_high": high}
        metrics["evaluated"] = final
        if not self.points:
            tune.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / POINTER).write_text(json.dumps({"run": str(self.run)}), encoding="utf-8")
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def _take_over(run: Path) -> None:
    """Replace a run's checkpoints by the newest one of the run that Ray Tune says to go on from, if another one."""
    pointer = tune.get_checkpoint()
    if pointer is None:
        return
    with pointer.as_directory() as folder:
        donor = Path(json.loads((Path(folder) / POINTER).read_text(encoding="utf-8"))["run"])
    steps = Checkpointer(donor / "checkpoints").steps()
    if donor == run or not steps:
        return
    newest = f"step_{steps[-1]:012d}"
    fresh = run / "checkpoints.taken"
    shutil.rmtree(fresh, ignore_errors=True)
    for part in (newest, f"{REPLAY_FOLDER}/{newest}"):
        if (donor / "checkpoints" / part).is_dir():
            shutil.copytree(donor / "checkpoints" / part, fresh / part)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    fresh.rename(run / "checkpoints")


def _has_any(run: Path) -> bool:
    return not Checkpointer(run / "checkpoints").is_empty()
