"""`train`: the run folder, resuming bit for bit after anything, limits, failures."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from hippodrome.training import load_policy, train
from hippodrome.training.checkpoint.checkpointer import Checkpointer
from hippodrome.training.config import load_config
from hippodrome.training.errors import CheckpointError, ConfigError, RunFolderError, TrainingError, TrainingInterrupted
from hippodrome.training.evaluation.evaluate import _play
from hippodrome.training.held import held
from hippodrome.training.log.metrics import read_metrics, summarize_updates
from hippodrome.training.step import initial_state, make_experiment, state_template
from tests.compare import assert_identical
from tests.tiny import tiny_config, tiny_flags

QUICK = dict(checkpoint__every_updates=1, evaluation__episodes=8)


def final_state(run, config):
    state, _ = Checkpointer(run / "checkpoints").restore(state_template(make_experiment(config), config))
    return state


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four updates, undisturbed."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    config = tiny_config(**QUICK)
    return train(config, run_dir=folder, command=["hippodrome", "train"]), config


def test_evaluations_while_training_are_logged_and_compiled_once(tmp_path):
    before = _play._cache_size()
    config = tiny_config(evaluation__every_updates=1, evaluation__episodes=4, total_env_steps=64 * 3)
    run = train(config, run_dir=tmp_path / "run")
    rows = [row for row in read_metrics(run) if "evaluation_return" in row]
    # After the last update the run is evaluated into evaluation.json.
    assert [row["update"] for row in rows] == [1, 2]
    assert all(-1.0 <= row[name] <= 1.0 for row in rows for name in ("evaluation_return", "evaluation_return_sampled"))
    assert _play._cache_size() - before == 2  # deterministic and sampled


def test_run_folder_holds_everything(finished):
    run, config = finished
    assert load_config(run) == config
    rows = read_metrics(run)
    assert [row["env_steps"] for row in rows] == [64, 128, 192, 256]
    assert {"wall_time", "steps_per_second", "episode_return", "loss", "value_loss"} <= set(rows[-1])
    # Eight steps are no episode of 51: the return is null, and the count says why.
    assert rows[0]["episodes"] == 0 and rows[0]["episode_return"] is None
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["env"] == config.env.id and evaluation["episodes"] == 8 and evaluation["seeds"] == 1
    assert evaluation["failed_seeds"] == []
    for name in ("return", "return_sampled"):
        assert {"mean", "std", "iqm", "iqm_low", "iqm_high", "min", "max", "per_seed"} <= set(evaluation[name])
    assert json.loads((run / "environment.json").read_text())["command"] == ["hippodrome", "train"]
    assert (run / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert list(run.glob("events.out.tfevents.*"))
    assert Checkpointer(run / "checkpoints").steps()[-3:] == [2, 3, 4]


def test_a_run_folder_is_never_written_over(finished):
    run, config = finished
    with pytest.raises(RunFolderError, match="exists and is not empty"):
        train(config, run_dir=run)


def test_interrupt_saves_and_resume_is_bit_for_bit(finished, tmp_path, monkeypatch):
    run, config = finished

    def interrupt_after_second(self, writer, last):
        if self.update == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("hippodrome.training.loop.Run._evaluate_now", interrupt_after_second)
        with pytest.raises(TrainingInterrupted, match="SIGTERM: stopped after update 3 and saved; go on with") as stop:
            train(config, run_dir=tmp_path / "cut")
    assert stop.value.exit_code == 130
    train(config, resume=tmp_path / "cut")
    assert_identical(final_state(tmp_path / "cut", config), final_state(run, config))
    rows, expected = read_metrics(tmp_path / "cut"), read_metrics(run)
    assert [row["loss"] for row in rows] == [row["loss"] for row in expected]


def test_a_run_stopped_before_its_first_checkpoint_begins_anew(finished, tmp_path, monkeypatch, capsys):
    """Killed while it compiled, or while the first checkpoint was written: a log and a half of that are left."""
    run, config = finished

    def killed(self, interrupted):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hippodrome.training.loop.Run.loop", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, run_dir=tmp_path / "cut")
    (tmp_path / "cut" / "checkpoints" / ".writing_step_000000000001").mkdir(parents=True)
    (tmp_path / "cut" / "metrics.jsonl").write_text('{"env_steps": 64, "update": 1}\n')
    train(config, resume=tmp_path / "cut")
    assert capsys.readouterr().err.count("was stopped before its first checkpoint: it begins anew") == 1
    assert_identical(final_state(tmp_path / "cut", config), final_state(run, config))
    assert [row["update"] for row in read_metrics(tmp_path / "cut")] == [1, 2, 3, 4]
    other = dataclasses.replace(config, seed=5)
    shutil.rmtree(tmp_path / "cut" / "checkpoints")
    with pytest.raises(CheckpointError, match="no intact checkpoint in"):  # it is finished: its log is kept
        train(config, resume=tmp_path / "cut")
    assert len(read_metrics(tmp_path / "cut")) == 4
    with pytest.raises(ConfigError, match="seed: 5 now, 0 in the run"):
        train(other, resume=tmp_path / "cut")
    (tmp_path / "cut" / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"is a folder without config\.yaml, so it is no run"):
        train(config, resume=tmp_path / "cut")


def test_damaged_newest_checkpoint_is_reported_and_the_one_before_used(finished, tmp_path, caplog):
    run, config = finished
    copy = shutil.copytree(run, tmp_path / "damaged")
    newest = copy / "checkpoints" / "step_000000000004"
    victim = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-7])
    with caplog.at_level("WARNING"):
        train(config, resume=copy)
    assert "step_000000000004 is damaged" in caplog.text
    assert_identical(final_state(copy, config), final_state(run, config))


def test_resume_refuses_another_configuration_and_names_the_fields(finished):
    run, config = finished
    other = dataclasses.replace(config, agent=dataclasses.replace(config.agent, gamma=0.5))
    with pytest.raises(ConfigError, match=r"agent\.gamma: 0\.5 now, 0\.99 in the run"):
        train(other, resume=run)


def test_resume_refuses_fewer_steps_than_were_trained(finished):
    run, config = finished
    before = (run / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=r"total_env_steps=64 is less than the \d+ that .* was trained for"):
        train(dataclasses.replace(config, total_env_steps=64), resume=run)
    assert (run / "config.yaml").read_text() == before


def test_one_process_at_a_time_trains_in_a_folder(finished):
    run, config = finished
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name not in (".lock", ".held_by")}
    with held(run), pytest.raises(RunFolderError, match=rf"is being written by process {os.getpid()} on .* stop it"):
        train(config, resume=run)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with held(run):  # whoever held it has let go
        pass


def test_resume_can_train_for_longer(finished, tmp_path):
    run, config = finished
    copy = shutil.copytree(run, tmp_path / "longer")
    train(dataclasses.replace(config, total_env_steps=64 * 5), resume=copy)
    assert [row["update"] for row in read_metrics(copy)] == [1, 2, 3, 4, 5]


def test_init_from_begins_with_the_parameters_of_a_run(finished, tmp_path):
    run, config = finished
    begun = train(
        dataclasses.replace(config, init_from=str(run), total_env_steps=64, seed=7), run_dir=tmp_path / "second"
    )
    experiment = make_experiment(config)
    expected = load_policy(run).params
    state = final_state(begun, config)
    # The first rollout was acted by them, so the best parameters so far are theirs or the initial ones set to them.
    assert_identical(state.best.params, expected)
    fresh = jax.jit(lambda: initial_state(experiment, config))()
    kernels = [jax.tree.leaves(tree.params.network if hasattr(tree, "params") else tree.network)[1] for tree in
               (fresh.learner, expected)]  # fmt: skip
    assert not np.array_equal(*kernels)


def test_init_from_another_shape_names_the_difference(finished, tmp_path):
    run, _ = finished
    with pytest.raises(ConfigError, match=r"memory\.d_model: 16 here, 8 in the run"):
        train(tiny_config(memory__d_model=16, init_from=run, **QUICK), run_dir=tmp_path / "other")
    with pytest.raises(ConfigError, match="init_from=nowhere: there is no run folder"):
        train(tiny_config(init_from="nowhere", **QUICK), run_dir=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_limits_stop_and_save(tmp_path, capsys):
    config = tiny_config(max_time=1e-6, **QUICK)
    run = train(config, run_dir=tmp_path / "time")
    assert Checkpointer(run / "checkpoints").steps() == [1]
    assert "max_time=1e-06" in capsys.readouterr().err
    config = tiny_config(stop_at_return=-2.0, agent__num_steps=64, total_env_steps=64 * 32, **QUICK)
    run = train(config, run_dir=tmp_path / "return")
    assert Checkpointer(run / "checkpoints").steps() == [1]
    assert "stop_at_return=-2" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_and_names_update_and_metric(tmp_path):
    with pytest.raises(
        TrainingError, match=r"seed 0: \w+ is not finite in update 1. Training stopped; there is no checkpoint yet"
    ) as stop:
        train(tiny_config(agent__learning_rate=1e38, agent__max_grad_norm=1e38, **QUICK), run_dir=tmp_path / "nan")
    assert stop.value.exit_code == 1
    assert not (tmp_path / "nan" / "evaluation.json").exists()


def test_a_seed_that_fails_is_frozen_reported_and_left_out(tmp_path, monkeypatch, capsys):
    def poisoned(experiment, config):
        state = initial_state(experiment, config)
        params = jax.tree.map(lambda leaf: leaf.at[1].set(np.nan), state.learner.params)
        return state.replace(learner=state.learner.replace(params=params))

    monkeypatch.setattr("hippodrome.training.loop.initial_state", poisoned)
    run = train(tiny_config(num_seeds=2, seed=5, **QUICK), run_dir=tmp_path / "half")
    report = capsys.readouterr().err
    assert report.count("seed 6: ") == 1 and "is not finite in update 1: this seed stands still" in report
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["failed_seeds"] == [6] and evaluation["train_seeds"] == [5]
    assert len(evaluation["return"]["per_seed"]) == 1
    rows = read_metrics(run)
    assert len(rows) == 4 and rows[-1]["loss"] == rows[-1]["per_seed"]["loss"][0] is not None
    assert rows[-1]["per_seed"]["loss"][1] is None
    # The policy of such a run is one of the seeds that went on.
    assert np.isfinite(jax.tree.leaves(load_policy(run).params)[0]).all()


@pytest.mark.slow
def test_two_devices_train_and_resume(tmp_path):
    # A constant learning rate: a schedule depends on total_env_steps, which differs here.
    config = tiny_config(num_devices=2, num_shards=2, agent__learning_rate_schedule="constant", **QUICK)
    whole = train(config, run_dir=tmp_path / "whole")
    half = train(dataclasses.replace(config, total_env_steps=128), run_dir=tmp_path / "half")
    train(config, resume=half)
    assert_identical(final_state(half, config), final_state(whole, config))
    assert load_policy(whole).agent.num_shards == 2  # a policy needs one device only


def test_summary_of_updates_weights_by_episodes():
    def update(episodes, episode_return, length, loss):
        values = {"episodes": episodes, "episode_return": episode_return, "episode_length": length, "loss": loss}
        return {name: np.array(value) for name, value in values.items()} | {"failed_update": np.array([-1, -1])}

    nan = np.nan
    rows = [update([1, 0], [1.0, nan], [4.0, nan], [1.0, 2.0]), update([3, 0], [5.0, nan], [8.0, nan], [3.0, 2.0])]
    row = summarize_updates(rows)
    np.testing.assert_array_equal(row["episodes"], [4, 0])
    np.testing.assert_array_equal(row["episode_return"], [4.0, np.nan])
    np.testing.assert_array_equal(row["episode_length"], [7.0, np.nan])
    np.testing.assert_array_equal(row["loss"], [2.0, 2.0])
    assert "failed_update" not in row


def test_kill_9_then_resume_equals_an_undisturbed_run(tmp_path):
    """Real processes at full optimisation, killed without warning at an arbitrary moment after a checkpoint."""
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    launch = Path(__file__).parents[2] / "launch.py"
    flags = tiny_flags(**QUICK, total_env_steps=64 * 24, log__no_tensorboard=True)

    def command(*words):
        return [sys.executable, str(launch), "train", *words]

    def wait(process):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors

    # The processes before the kill share what they compile; the one that resumes compiles for itself.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    # How often a run is saved does not change it.
    seldom = ["--checkpoint.every-updates", "24"]
    wait(
        subprocess.Popen(command("quickstart", "--run-dir", "whole", *flags, *seldom), env=environment | cache, **pipes)
    )
    process = subprocess.Popen(command("quickstart", "--run-dir", "killed", *flags), env=environment | cache, **pipes)
    checkpointer = Checkpointer(tmp_path / "killed" / "checkpoints")
    while not [step for step in checkpointer.steps() if step >= 5]:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert max(checkpointer.steps()) < 24
    wait(subprocess.Popen(command("--resume", "killed"), env=environment, **pipes))
    config = load_config(tmp_path / "whole")
    assert_identical(final_state(tmp_path / "killed", config), final_state(tmp_path / "whole", config))
