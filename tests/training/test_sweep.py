"""Sweeps: what may be searched, that a killed one goes on and hides no failure, and its report."""

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import yaml

from hippodrome import launch
from hippodrome.training import load_policy
from hippodrome.training.config import load_config
from hippodrome.training.errors import ConfigError, RunFolderError
from hippodrome.training.held import held
from hippodrome.training.sweep import load_sweep, resume_sweep, run, run_sweep
from hippodrome.training.sweep.config import flags, save_sweep, trial_config
from hippodrome.training.sweep.report import report_lines, report_table, write_report
from hippodrome.training.sweep.run import param_space, within_bounds

TINY = {
    "env": {"num_envs": 8},
    "memory": {"kind": "s5", "d_model": 8, "d_state": 4, "num_layers": 1},
    "agent": {"num_steps": 8, "num_epochs": 1, "num_minibatches": 2, "encoder_sizes": [8], "head_sizes": [8]},
    "total_env_steps": 1024,
    "num_seeds": 2,
    "evaluation": {"episodes": 4},
    "checkpoint": {"every_updates": 2},
    "log": {"tensorboard": False},
}


def write(tmp_path, **fields):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"config": "quickstart", "base": TINY, **fields}))
    return path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"space": {}}, "space must name at least one field"),
        ({"space": {"agent.gamma": {"choice": [0.9]}}}, "num_trials is missing"),
        ({"space": {"agent.gamma": {"chioce": [0.9]}}}, r"agent.gamma=.* must be a mapping of one of these words"),
        ({"space": {"agent.gamma": {"choice": []}}}, r"choice=\[\] must be a list to draw from"),
        ({"space": {"agent.learning_rate": {"log_uniform": [0, 1]}}}, "both above 0, low below high"),
        ({"space": {"agent.gamma": {"uniform": [0.9, 0.5]}}}, "low below high"),
        ({"space": {"agent.num_epochs": {"integer": [1, 2.5]}}}, "two integers"),
        ({"space": {"agent.learnin_rate": {"choice": [1e-3]}}, "num_trials": 1}, "agent.learnin.rate"),
        ({"space": {"memory.d_state": {"choice": [4]}, "memory.kind": {"choice": ["s5", "gru"]}}, "num_trials": 1},
         r"space, with memory.kind=gru, memory.d_state=4: .*d.state"),
        ({"space": {"agent.gamma": {"choice": [0.9, 1.5]}}, "num_trials": 1}, r"agent.gamma=1.5"),
        ({"space": {"agent.gamma": {"grid": [0.9]}}, "search": "optuna"}, "must be a choice, not a grid"),
        ({"space": {"agent.gamma": {"grid": [0.9]}}, "num_trials": 3}, "num_trials=3 must be left out"),
        ({"space": {"memory.d_model": {"choice": [8, 16]}}, "num_trials": 2, "scheduler": "pbt"},
         r"hands states on between trials.*\n  - memory.d_model"),
        ({"space": {"agent.head_sizes": {"choice": [[8], [4]]}}, "num_trials": 2, "scheduler": "pbt"},
         r"that shape no array:\n  - agent.head_sizes"),
        ({"space": {"agent.gamma": {"uniform": [0.9, 1]}}, "num_trials": 0}, "num_trials=0"),
        ({"space": {"agent.gamma": {"grid": [0.9]}}, "schedular": "asha"}, "did you mean 'scheduler'"),
        ({"space": {"agent.num_epochs": {"uniform": [1, 3]}}, "num_trials": 1},
         r"agent.num_epochs.* whole number; `integer: \[low, high\]` draws whole numbers"),
        ({"space": {"agent.num_epochs": {"uniform": [0, 100]}}, "num_trials": 1}, "agent.num_epochs"),
        ({"space": {"memory": {"grid": ["s5"]}, "memory.kind": {"grid": ["gru"]}}}, "name the same field"),
        ({"space": {"agent.gamma": {"grid": [0.9]}}, "scheduler": "asha", "grace_env_steps": 2000},
         "grace_env_steps=2000 must be at most total_env_steps=1024"),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_searched_is_refused_before_ray_starts(tmp_path, fields, message):
    with pytest.raises(ConfigError, match=message):
        load_sweep(write(tmp_path, **fields))


def test_a_flag_that_would_decide_a_field_of_the_space_is_refused(tmp_path):
    source = write(tmp_path, space={"agent.learning_rate": {"grid": [1e-3, 1e-4]}})
    with pytest.raises(
        ConfigError, match=r"space.agent.learning_rate would do nothing, as the flag --agent.learning-rate"
    ):
        load_sweep(source, ["--agent.learning-rate=1e-2"])


def refuse_after_training(folder, *_, **__):
    (folder / "trials" / "one").mkdir(parents=True)
    raise ConfigError("after hours")


def test_a_trial_that_no_node_has_room_for_is_refused_and_leaves_no_folder(tmp_path, monkeypatch):
    spec = {"agent.gamma": {"grid": [0.9]}}
    many = os.cpu_count() + 1
    with pytest.raises(ConfigError, match=f"cores_per_trial={many} must be at most the"):
        run_sweep(write(tmp_path, space=spec, cores_per_trial=many), run_dir=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()
    monkeypatch.setattr("hippodrome.training.sweep._run", refuse_after_training)
    with pytest.raises(ConfigError, match="after hours"):
        run_sweep(write(tmp_path, space=spec), run_dir=tmp_path / "sweep")
    assert (tmp_path / "sweep" / "trials" / "one").exists(), "what was trained stays"
    node = {"Alive": True, "Resources": {"CPU": 2.0}}
    monkeypatch.setattr(run.ray, "nodes", lambda: [node])
    with pytest.raises(ConfigError, match=r"no node has room for a trial of cores_per_trial=1 with gpus_per_trial=0.5"):
        run._require_room(load_sweep(write(tmp_path, space=spec, gpus_per_trial=0.5)))


def test_what_is_wrong_without_the_space_is_told_without_it_and_once(tmp_path):
    spec = {"agent.gamma": {"choice": [0.9, 0.95]}}
    for fields in ({"config": "quickstrat"}, {"base": {"env": {"idd": "x"}}}):
        with pytest.raises(ConfigError) as stop:
            load_sweep(write(tmp_path, space=spec, num_trials=2, **fields))
        assert str(stop.value).count("did you mean") == 1 and "space" not in str(stop.value)
    wrong = {"agent.learnin_rate": {"choice": [1e-3, 1e-2]}}
    with pytest.raises(ConfigError) as stop:
        load_sweep(write(tmp_path, space=wrong, num_trials=2))
    assert str(stop.value).count("did you mean") == 1


def test_the_shipped_sweep_is_twelve_trials_and_every_one_of_them_runnable():
    sweep = load_sweep("repeat-previous-medium")
    assert sweep.total_trials == sweep.grid_points == 12
    with pytest.raises(ConfigError, match="did you mean 'repeat-previous-medium'"):
        load_sweep("repeat-previous-medum")


def test_values_become_flags_and_stay_in_their_ranges(tmp_path):
    values = {
        "memory": {"kind": "gru", "d_model": 16},
        "agent.normalize_reward": False,
        "agent.head_sizes": [4, 8],
        "env.kwargs": {"a": 1},
        "agent.gamma": 0.5,
    }
    assert flags(values) == ["--memory.kind", "gru", "--memory.d-model", "16", "--agent.no-normalize-reward",
                             "--agent.head-sizes", "4", "8", "--env.kwargs", "a=1", "--agent.gamma", "0.5"]  # fmt: skip
    spec = {"memory": {"choice": ["s5", {"kind": "gru"}]}, "agent.learning_rate": {"log_uniform": [1e-4, 1e-2]},
            "agent.num_epochs": {"integer": [1, 3]}}  # fmt: skip
    sweep = load_sweep(write(tmp_path, space=spec, num_trials=2))
    config = trial_config(sweep, {"memory": {"kind": "gru"}, "agent.num_epochs": 3}, ["--num-seeds", "5"])
    assert (config.memory.kind, config.memory.d_model, config.agent.num_epochs, config.num_seeds) == ("gru", 8, 3, 5)
    assert within_bounds(sweep, {"agent.learning_rate": 1.0, "agent.num_epochs": 0.2}) == {
        "agent.learning_rate": 1e-2,
        "agent.num_epochs": 1,
    }
    assert (
        load_sweep(write(tmp_path, space={"agent.gamma": {"grid": [0.5, 0.9]}}, samples_per_point=3)).total_trials == 6
    )
    drawn = {param_space(sweep)["agent.num_epochs"].sample() for _ in range(100)}
    assert drawn == {1, 2, 3}


def trial(number, status, error_file=None, values=(1e-3, "s5"), **last):
    rate, kind = values
    return types.SimpleNamespace(
        trial_id=f"t{number}",
        status=status,
        config={"agent.learning_rate": rate, "memory.kind": kind},
        last_result=last,
        num_failures=int(status == "ERROR"),
        error_file=error_file,
    )


def test_the_report_ranks_what_finished_first_and_shows_what_failed(tmp_path):
    spec = {"agent.learning_rate": {"log_uniform": [1e-4, 1e-2]}, "memory.kind": {"choice": ["s5", "gru"]}}
    sweep = load_sweep(write(tmp_path, space=spec, num_trials=4))
    (tmp_path / "error.txt").write_text("Traceback\nValueError: the sea is too deep\n")
    scores = dict(score_low=0.0, score_high=1.0, time_total_s=3.0)
    trials = [
        trial(0, "ERROR", str(tmp_path / "error.txt")),
        trial(1, "TERMINATED", env_steps=512, score=0.9, evaluated=False, **scores),
        trial(2, "TERMINATED", env_steps=1024, score=0.2, evaluated=True, **scores),
        trial(3, "TERMINATED", env_steps=1024, score=0.5, evaluated=True, values=(2e-3, "gru"), **scores),
    ]
    report = write_report(tmp_path, sweep, [], {each.trial_id: each for each in trials})
    assert [row["trial"] for row in report["trials"]] == ["t3", "t2", "t1", "t0"]
    assert [report[state] for state in ("finished", "stopped", "failed", "unfinished")] == [2, 1, 1, 0]
    assert json.loads((tmp_path / "report.json").read_text()) == report
    best = load_config(tmp_path / "best.yaml")
    assert best.memory.kind == "gru" and best.agent.learning_rate == 2e-3 and best.total_env_steps == 1024
    assert (tmp_path / "parallel_coordinates.png").stat().st_size > 5_000
    assert len(list((tmp_path / "hparams").rglob("events.out.*"))) >= 3
    lines = report_lines(report)
    assert lines[0] == "trial t0 failed: ValueError: the sea is too deep" and "best.yaml" in lines[1]
    assert report_table(report).row_count == 4


def test_a_small_sweep_by_its_command(tmp_path, monkeypatch, capsys):
    """One trial to its end, by Optuna's choice, under a scheduler that could stop it."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    monkeypatch.setenv("XLA_FLAGS", "")
    spec = {"agent.learning_rate": {"log_uniform": [1e-4, 1e-2]}, "agent.gamma": {"choice": [0.9]}}
    source = write(tmp_path, space=spec, num_trials=1, search="optuna", scheduler="asha", grace_env_steps=256)
    flags = ["--run-dir", str(tmp_path / "sweep"), "--json", "--total-env-steps", "512"]
    assert launch.main(["sweep", str(source), *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    (row,) = report["trials"]
    assert row["state"] == "finished" and row["env_steps"] == 512 and row["values"]["agent.gamma"] == 0.9
    evaluation = json.loads((Path(row["run"]) / "evaluation.json").read_text())
    assert row["score"] == evaluation["return"]["iqm"] and evaluation["seeds"] == 2
    assert load_config(tmp_path / "sweep" / "best.yaml").total_env_steps == 512
    with pytest.raises(RunFolderError, match="exists and is not empty"):
        run_sweep(source, run_dir=tmp_path / "sweep")


@pytest.mark.slow
def test_a_sweep_killed_is_resumed_and_hides_no_failure(tmp_path):
    """Through the command: one trial of four has a learning rate that no parameter survives."""
    spec = {"agent.learning_rate": {"grid": [1e-4, 1e-3, 1e-2, 1e30]}}
    source, folder = write(tmp_path, space=spec, cores_per_trial=1), tmp_path / "sweep"
    command = [sys.executable, "-m", "hippodrome.launch", "sweep"]
    variables = {**os.environ, "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    with (tmp_path / "first.log").open("w") as log:
        driver = subprocess.Popen([*command, source, "--run-dir", folder], stdout=log, stderr=log, env=variables)
        end = time.monotonic() + 300
        while not list(folder.glob("trials/*/evaluation.json")):
            assert time.monotonic() < end and driver.poll() is None, (tmp_path / "first.log").read_text()
            time.sleep(0.1)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    finished = {path.parent.name: path.stat().st_mtime for path in folder.glob("trials/*/evaluation.json")}
    done = subprocess.run([*command, "--resume", folder, "--json"], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [report[state] for state in ("finished", "stopped", "failed", "unfinished")] == [3, 0, 1, 0]
    assert sorted(row["values"]["agent.learning_rate"] for row in report["trials"]) == [1e-4, 1e-3, 1e-2, 1e30]
    failed = report["trials"][-1]
    assert "is not finite" in failed["error"] and failed["failures"] == 2
    for row in report["trials"][:-1]:
        assert row["env_steps"] == 1024 and len(row["per_seed"]) == 2
        assert row["score_low"] <= row["score"] <= row["score_high"]
    assert set(finished) <= {row["trial"] for row in report["trials"]}
    load_policy(Path(report["best"]["run"]))
    assert load_config(folder / "best.yaml").agent.learning_rate == report["best"]["values"]["agent.learning_rate"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_interrupted_says_how_to_go_on(tmp_path, number):
    """Before any trial has reported."""
    source, folder = write(tmp_path, space={"agent.gamma": {"grid": [0.8, 0.9]}}, cores_per_trial=2), tmp_path / "sweep"
    command = [sys.executable, "-m", "hippodrome.launch", "sweep", source, "--run-dir", folder]
    variables = {**os.environ, "XLA_FLAGS": ""}
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables)
    while not list(folder.glob("trials/*")):
        assert driver.poll() is None, driver.stderr.read()
        time.sleep(0.1)
    driver.send_signal(number)
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 130, said
    assert f"go on with `hippodrome sweep --resume {folder}`" in said and "every trial failed" not in said
    assert json.loads((folder / "report.json").read_text())["finished"] == 0


def test_one_process_at_a_time_runs_a_sweep(tmp_path):
    source = write(tmp_path, space={"agent.gamma": {"grid": [0.9]}})
    save_sweep(load_sweep(source), tmp_path / "sweep.yaml")
    with held(tmp_path), pytest.raises(RunFolderError, match=rf"is being written by process {os.getpid()} on"):
        resume_sweep(tmp_path)


def test_only_a_sweep_is_resumed(tmp_path):
    with pytest.raises(RunFolderError, match="is no sweep"):
        resume_sweep(tmp_path)
