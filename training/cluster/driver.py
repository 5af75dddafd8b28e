"""The driver: starts a group of workers, shows how they get on, and starts another where one dies."""

import dataclasses
import datetime
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray

from hippodrome.training.checkpoint.checkpointer import Checkpointer
from hippodrome.training.config import TrainConfig
from hippodrome.training.errors import HippodromeError, RunFolderError, TrainingError
from hippodrome.training.interrupt import interrupt_flag
from hippodrome.training.log.metrics import METRICS_FILE
from hippodrome.training.log.progress import Progress, ProgressBar
from hippodrome.training.loop import run_training, show_result
from hippodrome.training.prepare import prepare, run_folder

from .acting import actors_of
from .group import Group, WorkerLost, group_of, require_room
from .nodes import require_equal_nodes

FAILURES_FILE = "failures.jsonl"
_SECONDS_BETWEEN_REPORTS = 0.2


def supervise(
    config: TrainConfig, run_dir: str | Path | None, resume: str | Path | None, command: list[str] | None
) -> Path:
    """Train with workers in the session of Ray that there is; see `train_on_cluster`."""
    require_room(config.cluster)
    with run_folder(config, run_dir, resume) as made:
        folder = made.absolute()
        try:
            require_equal_nodes(folder, config.cluster, config.import_modules)
            supervisor = _ActorSupervisor if config.cluster.num_actors else _Supervisor
            result = supervisor(config, folder, command).train(resume is not None)
        except HippodromeError as error:
            if error.exit_code == 2 and resume is None and not (folder / METRICS_FILE).exists():
                shutil.rmtree(folder, ignore_errors=True)  # nothing was trained; its name is free again
            raise
        show_result(folder, result)
    return folder


class _Supervisor:
    """Keeps a run going whatever happens to its workers."""

    def __init__(self, config: TrainConfig, folder: Path, command: list[str] | None):
        self.config = config
        self.folder = folder
        self.command = command
        self.checkpoints = Checkpointer(folder / "checkpoints", keep=config.checkpoint.keep)
        self.env_steps = 0
        self._failure: dict[str, Any] | None = None
        self._failed_at = 0.0

    def train(self, resume: bool) -> dict[str, Any]:
        """The result of the final evaluation."""
        total = self.config.num_updates * self.config.steps_per_update
        failures, newest = 0, self._newest()
        self.env_steps = (newest or 0) * self.config.steps_per_update
        with ProgressBar(total) as bar, interrupt_flag() as interrupted:
            while True:
                try:
                    return self._attempt(bar, interrupted, resume)
                except WorkerLost as lost:
                    self._failed_at = time.monotonic()
                    failures = failures + 1 if self._newest() == newest else 1
                    newest, resume = self._newest(), True
                    self._note(lost)
                    if failures > self.config.cluster.max_failures:
                        self._write_failure(None)
                        raise TrainingError(self._give_up(failures, lost)) from None
                    self._say_what_follows(bar, lost)

    def _attempt(self, bar: ProgressBar, interrupted: list[int], resume: bool) -> dict[str, Any]:
        """The result, unless a worker is lost."""
        with group_of(self.config) as group:
            bar.say(_where(group.places, "worker"))
            return self._follow(group, bar, interrupted, resume)

    def _follow(self, group: Group, bar: ProgressBar, interrupted: list[int], resume: bool) -> dict[str, Any]:
        references = group.call("train", self.folder, resume, self.command)
        pending, told = list(references), False
        while pending:
            done, pending = ray.wait(pending, num_returns=len(pending), timeout=_SECONDS_BETWEEN_REPORTS)
            group.check(done, references)
            if interrupted and not told:
                group.get([group.leader.interrupt.remote(interrupted[0])])
                told = True
            self._pass_on(group.get([group.leader.reports.remote()])[0], bar)
        result = ray.get(references[0])
        self._pass_on(group.get([group.leader.reports.remote()])[0], bar)
        return result

    def _pass_on(self, reports: list[Progress | str], bar: ProgressBar) -> None:
        for report in reports:
            if isinstance(report, str):
                bar.say(report)
            else:
                self._went_on(report, bar)

    def _say_what_follows(self, bar: ProgressBar, lost: WorkerLost) -> None:
        newest = self._newest()
        repeated = max(0, self.env_steps - (newest or 0) * self.config.steps_per_update)
        where = "its beginning" if newest is None else f"the checkpoint of update {newest}"
        bar.say(f"{lost}\nThe workers are started again and go on from {where}; {repeated:,} env steps are repeated")

    def _note(self, lost: WorkerLost) -> None:
        """Keep what happened until it is known how long it took to go on; one that came before that is written."""
        if self._failure is not None:
            self._write_failure(None)
        from_steps = (self._newest() or 0) * self.config.steps_per_update
        self._failure = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "what": str(lost),
            "env_steps_reached": self.env_steps,
            "env_steps_resumed_from": from_steps,
        }

    def _went_on(self, report: Progress, bar: ProgressBar) -> None:
        """Show a report, and write a line about the failure that the first one after it ends."""
        bar.update(report)
        self.env_steps = report.env_steps
        if self._failure is not None:
            self._write_failure(round(time.monotonic() - self._failed_at, 1))

    def _write_failure(self, seconds: float | None) -> None:
        """A line of failures.jsonl; None where training did not go on after it."""
        line = {**(self._failure or {}), "seconds_until_next_report": seconds}
        self._failure = None
        try:
            with (self.folder / FAILURES_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise RunFolderError(f"{self.folder / FAILURES_FILE} cannot be written: {error.strerror}") from error

    def _newest(self) -> int | None:
        steps = self.checkpoints.steps()
        return steps[-1] if steps else None

    def _give_up(self, failures: int, lost: WorkerLost) -> str:
        newest = self._newest()
        saved = "there is no checkpoint yet" if newest is None else f"the newest checkpoint is that of update {newest}"
        return (
            f"workers failed {failures} times in a row without a checkpoint between (cluster.max_failures="
            f"{self.config.cluster.max_failures}); {saved}. Once the cause is mended, go on with `hippodrome train "
            f"--resume {self.folder}`. The last failure: {lost}"
        )


class _ActorSupervisor(_Supervisor):
    """The same where workers only act: this process learns."""

    def _attempt(self, bar: ProgressBar, interrupted: list[int], resume: bool) -> dict[str, Any]:
        with actors_of(self.config, self.folder) as actors:
            bar.say(_where(actors.places, "environment actor"))
            reporter = _Reporter(bar.say, lambda progress: self._went_on(progress, bar))
            try:
                prepared = prepare(self.config, self.folder if resume else None, actors)
                run = run_training(prepared, self.folder, reporter, interrupted, command=self.command)
            except Exception as error:
                if actors.lost is None or error is actors.lost:
                    raise
                raise actors.lost from error
        return run.finish()


@dataclasses.dataclass(frozen=True)
class _Reporter:
    """See `progress.Reporter`."""

    say: Callable[[str], None]
    update: Callable[[Progress], None]


def _where(places: Sequence[dict[str, Any]], what: str) -> str:
    """How many workers are on which nodes."""
    hosts = sorted({place["host"] for place in places})
    plural, nodes = "s" * (len(places) > 1), "s" * (len(hosts) > 1)
    return f"{len(places)} {what}{plural} on {len(hosts)} node{nodes}: {', '.join(hosts)}"
