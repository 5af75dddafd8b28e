"""`train`: the loop around the train step, with its run folder, log, checkpoints, interruption and resumption."""

import contextlib
import dataclasses
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .checkpoint.run import RunCheckpoints, replay_bytes
from .config import TrainConfig
from .config.checks import check_config
from .dataset.offline import describe, with_steps, without_steps
from .errors import TrainingError, TrainingInterrupted
from .evaluation.evaluate import evaluate_state, evaluation_table, save_evaluation
from .given import begin_with, require_same_config
from .host import restarted, running
from .interrupt import interrupt_flag
from .log.curve import draw_learning_curve
from .log.metrics import MetricsWriter, summarize_updates
from .log.progress import Progress, ProgressBar, Reporter, Stopwatch, table_console
from .prepare import Prepared, cannot_write_folder, prepare, run_folder
from .processes import agree, is_leader, wait_for_all, whole
from .run_folder import write_environment
from .step import TrainState, initial_state, make_environment, state_template, watched_metrics


def train(
    config: TrainConfig,
    *,
    run_dir: str | Path | None = None,
    resume: str | Path | None = None,
    command: list[str] | None = None,
) -> Path:
    """Trains an agent, evaluates the result and writes a run folder; returns the folder.

    Args:
        config: what to train; see `load_config`.
        run_dir: the folder to make; `runs/<memory>-<env>-<time>` where None.
        resume: go on in this run folder from its newest intact checkpoint, bit for bit (environments on the host begin
            new episodes); anew where it was stopped before the first one. `config` may differ from the run's own only
            in `given.RESUMABLE_FIELDS`.
        command: the words of the command, for environment.json.

    Raises:
        ConfigError: for a configuration that breaks a rule, or differs from that of the run to resume or begin from.
        RunFolderError: for a folder that exists, cannot be written, or is being written by another process.
        CheckpointError: for a checkpoint that cannot be written or read.
        EnvironmentFailure: if an environment on the host raised an error.
        TrainingError: if a loss or parameter became not finite (with several seeds: in every one of them).
        TrainingInterrupted: after SIGTERM or Ctrl-C, with the state saved.
    """
    check_config(config)
    if resume is not None:
        require_same_config(config, Path(resume))
    if config.cluster.num_processes:
        from .cluster import train_on_cluster  # imports ray

        return train_on_cluster(config, run_dir=run_dir, resume=resume, command=command)
    prepared = prepare(config, None if resume is None else Path(resume))
    with run_folder(config, run_dir, resume) as folder:
        with ProgressBar(prepared.env_steps) as bar, interrupt_flag() as interrupted:
            run = run_training(prepared, folder, bar, interrupted, command=command)
        show_result(folder, run.finish())
    return folder


def run_training(
    prepared: Prepared,
    folder: Path,
    bar: Reporter,
    interrupted: list[int],
    *,
    command: list[str] | None = None,
) -> "Run":
    """Train to the end in a folder; in every process of the run, of which the leader alone writes.

    Args:
        prepared: what to train.
        folder: of the run, as `run_folder` gave it.
        bar: is told how it goes.
        interrupted: holds a signal's number once one came.
        command: the words of the command, for environment.json.

    Raises:
        RunFolderError, CheckpointError, EnvironmentFailure, TrainingError, TrainingInterrupted: as `train`.
    """
    run = Run(prepared, folder, bar)
    if is_leader():
        try:
            write_environment(folder, command)
        except OSError as error:
            raise cannot_write_folder(folder, error) from error
    with running(prepared.experiment.envs, run.how_to_go_on):
        if prepared.has_checkpoint:
            run.restore()
        else:
            run.begin()
        if prepared.env_steps != prepared.config.total_env_steps:
            bar.say(
                f"training for {prepared.env_steps:,} env steps: of {prepared.config.total_env_steps:,} the whole "
                f"updates of {prepared.experiment.steps_per_update:,}"
            )
        run.loop(interrupted)
    return run


def show_result(folder: Path, result: dict[str, Any]) -> None:
    """Print the table of the final evaluation."""
    console = table_console()
    console.print(evaluation_table(result))
    console.print(f"run folder: {folder}", highlight=False, soft_wrap=True)


class Run:
    """One run while it lasts: its state on the device and its files.

    Attributes:
        state: the training state; valid between two updates.
        update: updates done.
        wall_time: seconds of training, over all resumptions, without compiling.
        failed: indices of seeds that stand still since something was not finite.
        offline: the data set it learns from, if it does.
    """

    def __init__(self, prepared: Prepared, folder: Path, bar: Reporter):
        self.config = config = prepared.config
        self.experiment = prepared.experiment
        self.offline = prepared.offline
        self.folder = folder
        self._prepared = prepared
        self._bar = bar
        self.checkpoints = RunCheckpoints(folder / "checkpoints", keep=config.checkpoint.keep)
        self.state: TrainState  # from begin or restore on
        self.update = 0
        self.wall_time = 0.0
        self.failed: set[int] = set()
        # Of the whole run: what plays in them is compiled once.
        self._evaluation_envs = make_environment(config.env, num_steps=1)
        self._best_score = -np.inf
        self._last_return: float | None = None
        self._saved_update = -1
        self._resumed_at: int | None = None

    def begin(self) -> None:
        """The initial state, with the parameters given, if any; the run's folder has no checkpoint yet."""
        state = jax.jit(lambda: initial_state(self.experiment, self.config))()
        if self._prepared.given is not None:
            state = jax.jit(partial(begin_with, self.experiment.agent))(state, self._prepared.given)
        self._place(state)
        self._resumed_at = 0 if self._prepared.resume else None

    def restore(self) -> None:
        """The state of the newest intact checkpoint."""
        template = state_template(self.experiment, self.config)
        state, metadata = self.checkpoints.restore(template)
        self.update = self._saved_update = metadata["update"]
        if self.experiment.envs.on_host:
            state = restarted(self.experiment.envs, state)
        self._place(state)
        self.wall_time = metadata["wall_time"]
        self._best_score = _best_score(state)
        self.failed = set(np.flatnonzero(np.atleast_1d(np.asarray(state.failed_update)) >= 0).tolist())
        self._resumed_at = self.update * self.experiment.steps_per_update

    def _place(self, state: TrainState) -> None:
        self.state = self.experiment.place(with_steps(state, self.offline))
        if self.offline is not None:  # replay has its steps; a second copy is not kept
            self.offline = dataclasses.replace(self.offline, steps=())

    def loop(self, interrupted: list[int]) -> None:
        """Updates until the steps are done, a limit is reached or a signal comes."""
        bar = self._bar
        if self._resumed_at == 0:
            bar.say(f"{self.folder} was stopped before its first checkpoint: it begins anew, by its own configuration")
        elif self._resumed_at is not None:
            bar.say(f"resuming {self.folder} from update {self.update} ({self._resumed_at:,} env steps)")
            if self.experiment.envs.on_host:
                bar.say("environments on the host are not in a checkpoint: each begins a new episode, reset True")
        if self.offline is not None:
            bar.say(describe(self.config, self.offline))
        elif self.state.replay != ():
            bar.say(f"replay takes {replay_bytes(self.state) / 1e6:,.1f} MB, saved with the newest checkpoint alone")
        if self.update >= self.experiment.num_updates:
            bar.say("nothing is left to train; raise --total-env-steps to go on. Evaluating it again")
            return
        began = time.perf_counter()
        step = jax.jit(self.experiment.step, donate_argnums=0).lower(self.state).compile()
        bar.say(f"compiled in {time.perf_counter() - began:.1f} s")
        wait_for_all("compiled")
        watch = Stopwatch()
        watch.lap(0)
        earlier = self.wall_time
        recent: list[dict[str, Any]] = []
        signal_number, stop_reason = 0, None
        tensorboard = self.config.log.tensorboard
        with contextlib.ExitStack() as files:
            writer = None
            if is_leader():
                log = MetricsWriter(self.folder, tensorboard=tensorboard, resume_step=self._resumed_at)
                writer = files.enter_context(log)
            while self.update < self.experiment.num_updates and stop_reason is None:
                self.state, metrics = step(self.state)
                recent.append(jax.device_get(metrics))
                self.update += 1
                watch.lap(self.experiment.steps_per_update, learnt=_has_learnt(recent[-1]))
                self.wall_time = earlier + watch.seconds
                self._check_finite(recent[-1])
                signal_number, stop_reason = self._stop(recent[-1], watch.seconds, interrupted)
                last = stop_reason is not None or self.update == self.experiment.num_updates
                if last or self.update % self.config.log.every_updates == 0:
                    if writer is not None:
                        self._log(writer, recent, watch)
                    recent = []
                watch.pause()
                if writer is not None:
                    self._evaluate_now(writer, last)
                if last or self.update % self.config.checkpoint.every_updates == 0:
                    self._save()
                watch.resume()
        if signal_number:
            name = signal.Signals(signal_number).name
            raise TrainingInterrupted(
                f"{name}: stopped after update {self.update} and saved; go on with `hippodrome train --resume "
                f"{self.folder}`"
            )
        if stop_reason is not None:
            bar.say(stop_reason)

    def how_to_go_on(self) -> str:
        """What to do after an error that the run's state did not survive."""
        if self._saved_update < 0:
            return (
                f"Training stopped before the first checkpoint of {self.folder}. Once the cause is mended, begin it "
                f"anew with `hippodrome train --resume {self.folder}`"
            )
        return (
            f"Training stopped; the newest checkpoint is that of update {self._saved_update}. Once the cause is "
            f"mended, go on with `hippodrome train --resume {self.folder}`"
        )

    def finish(self) -> dict[str, Any]:
        """Evaluates the final policy, writes evaluation.json and the learning curve, and returns the evaluation."""
        try:
            draw_learning_curve(self.folder, title=self.config.env.id)
        except OSError as error:
            self._bar.say(f"the learning curve cannot be written: {error.strerror}")
        self._bar.say(f"evaluating: {self.config.evaluation.episodes} episodes, deterministic and sampled")
        result = self._evaluation()
        save_evaluation(self.folder, self.config, result)
        return result

    def _evaluation(self) -> dict[str, Any]:
        key, episodes = jax.random.key(self.config.evaluation.seed), self.config.evaluation.episodes
        with running(self._evaluation_envs) as envs:
            result = evaluate_state(self.experiment, envs, self.state, self.config, key, episodes)
        return {**result, "update": self.update, "evaluation_seed": self.config.evaluation.seed}

    def _evaluate_now(self, writer: MetricsWriter, last: bool) -> None:
        every = self.config.evaluation.every_updates
        if last or not every or self.update % every:
            return
        result = self._evaluation()
        row = {"env_steps": self.update * self.experiment.steps_per_update, "update": self.update}
        for name in ("return", "return_sampled"):
            row[f"evaluation_{name}"] = result[name]["mean"]
        writer.write(row)

    def _log(self, writer: MetricsWriter, recent: list[dict], watch: Stopwatch) -> None:
        env_steps = self.update * self.experiment.steps_per_update
        row = writer.write(
            {
                "env_steps": env_steps,
                "update": self.update,
                "wall_time": self.wall_time,
                "steps_per_second": np.nan if watch.steps_per_second is None else watch.steps_per_second,
                **summarize_updates(recent),
            }
        )
        if row["episode_return"] is not None:
            self._last_return = row["episode_return"]
        progress = Progress(
            env_steps,
            steps_per_second=watch.steps_per_second,
            learning_speed=watch.learning_speed,
            episode_return=self._last_return,
            seed_returns=tuple(row.get("per_seed", {}).get("episode_return", [row["episode_return"]])),
        )
        self._bar.update(progress)

    def _save(self) -> None:
        if self._saved_update == self.update:
            return
        score = _best_score(self.state)
        metadata = {
            "update": self.update,
            "env_steps": self.update * self.experiment.steps_per_update,
            "wall_time": self.wall_time,
            "dataset": None if self.offline is None else self.offline.digest,
        }
        kept = whole(without_steps(self.state, self.offline))
        if is_leader():
            self.checkpoints.save(self.update, kept, metadata, best=score > self._best_score)
        self._best_score = max(score, self._best_score)
        self._saved_update = self.update

    def _stop(self, metrics: dict[str, Any], seconds: float, interrupted: list[int]) -> tuple[int, str | None]:
        """The number of a signal that came, or 0, and why to stop, if so; the same in every process."""
        config = self.config
        late = config.max_time is not None and seconds >= config.max_time
        signal_number, is_late = agree([interrupted[0] if interrupted else 0, int(late)])
        if signal_number:
            return signal_number, "interrupted"
        if is_late:
            return 0, f"stopped at max_time={config.max_time:g} s, after update {self.update}"
        episode_return = np.atleast_1d(metrics["episode_return"])
        alive = [value for index, value in enumerate(episode_return) if index not in self.failed]
        if config.stop_at_return is not None and np.mean(alive) >= config.stop_at_return:
            return 0, f"stopped at stop_at_return={config.stop_at_return:g}, after update {self.update}"
        return 0, None

    def _check_finite(self, metrics: dict[str, Any]) -> None:
        """Reports seeds that just stopped; raises TrainingError when none is left."""
        failed_update = np.atleast_1d(metrics["failed_update"])
        failed_metric = np.atleast_1d(metrics["failed_metric"])
        names = watched_metrics(metrics)
        reports = []
        for index in np.flatnonzero(failed_update >= 0).tolist():
            if index in self.failed:
                continue
            self.failed.add(index)
            what = f"{names[failed_metric[index]]} is not finite in update {failed_update[index] + 1}"
            reports.append(f"seed {self.config.seed + index}: {what}")
        if len(self.failed) == self.config.num_seeds:
            saved = (
                f"the last good state is the checkpoint of update {self._saved_update} in {self.folder / 'checkpoints'}"
                if self._saved_update >= 0
                else "there is no checkpoint yet"
            )
            raise TrainingError(f"{'; '.join(reports)}. Training stopped; {saved}. Try a smaller --agent.learning-rate")
        for report in reports:
            self._bar.say(f"{report}: this seed stands still from here on, the others go on")


def _has_learnt(metrics: dict[str, Any]) -> bool:
    """Whether an update learnt: not so while replay has no window yet."""
    return bool(np.any(metrics.get("learner_updates", 1)))


def _best_score(state: TrainState) -> float:
    return float(np.max(np.asarray(state.best.score)))
