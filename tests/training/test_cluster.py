"""Workers that Ray starts: the same numbers as one process, whatever dies; one session of Ray for this file."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid

import pytest

from hippodrome import launch
from hippodrome.training import train
from hippodrome.training.checkpoint.checkpointer import Checkpointer
from hippodrome.training.checkpoint.run import RunCheckpoints
from hippodrome.training.cluster.package import stage_packages
from hippodrome.training.config import load_config
from hippodrome.training.config.schema import ClusterConfig
from hippodrome.training.errors import ConfigError, TrainingError
from hippodrome.training.log.metrics import read_metrics
from hippodrome.training.step import make_experiment, state_template
from tests.compare import assert_close, assert_identical
from tests.ray_sessions import MARK, newest, processes_of, ray_session, wait_until
from tests.tiny import tiny_config, tiny_dreamer, tiny_flags

AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
UPDATES = 16
OPTIONS = dict(
    total_env_steps=64 * UPDATES,
    agent__learning_rate_schedule="constant",
    agent__normalize_observation=True,
    agent__normalize_reward=True,
    checkpoint__every_updates=1,
    checkpoint__keep=100,
    evaluation__episodes=4,
)
SHARDS = ("--num-shards", "4", "--agent.batch-size", "4", "--agent.train-ratio", "4", "--total-env-steps", "64")
# An environment that works in the driver and in no worker.
BROKEN = """
import sys
from hippodrome.envs import make, register_env
class Broken(type(make("popgym/RepeatPreviousEasy"))):
    def step_env(self, *args):
        if "ray" in sys.argv[0]:
            raise ArithmeticError("the moon is in the wrong house")
        return super().step_env(*args)
register_env("tests/Broken", Broken)
"""
# An environment that one worker takes long to compile.
LATE = """
import time
import jax
from hippodrome.envs import make, register_env
class Late(type(make("popgym/RepeatPreviousEasy"))):
    seconds = 40.0
    def step_env(self, *args):
        if jax.process_index() == 1:
            time.sleep(Late.seconds)
            Late.seconds = 0.0
        return super().step_env(*args)
register_env("tests/Late", Late)
"""

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """The mark of the processes of Ray."""
    yield from ray_session(
        tmp_path_factory.mktemp("session"), {"broken_in_workers": BROKEN, "late_in_one_worker": LATE}
    )


def on_two_workers(config):
    return dataclasses.replace(config, num_shards=2, cluster=ClusterConfig(num_workers=2, max_failures=1))


@pytest.fixture(scope="module")
def finished(session, tmp_path_factory):
    """A run on two workers, undisturbed."""
    config = on_two_workers(tiny_config(**OPTIONS))
    return train(config, run_dir=tmp_path_factory.mktemp("cluster") / "run"), config


def state_of(run, config, step=None):
    config = dataclasses.replace(config, cluster=ClusterConfig())
    template = state_template(make_experiment(config), config)
    if step is None:
        return RunCheckpoints(run / "checkpoints", keep=3).restore(template)[0]
    return Checkpointer(run / "checkpoints").restore(dataclasses.replace(template, replay=()), step)[0]


def test_two_workers_equal_one_process_with_two_shards(finished, tmp_path):
    run, config = finished
    alone = dataclasses.replace(config, cluster=ClusterConfig(), total_env_steps=128)
    one = state_of(train(alone, run_dir=tmp_path / "one"), alone)
    two = state_of(run, config, step=2)
    assert_close(two.learner, one.learner, rtol=1e-5, atol=1e-6)
    assert_close(two.envs, one.envs)
    assert_close(two.carry, one.carry, rtol=1e-5, atol=1e-6)
    rows, expected = read_metrics(run), read_metrics(tmp_path / "one")
    assert [row["update"] for row in rows] == list(range(1, UPDATES + 1))
    for row, other in zip(rows, expected, strict=False):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert row["episodes"] == other["episodes"] and row["episode_return"] == other["episode_return"]
    result = json.loads((run / "evaluation.json").read_text())
    assert result["episodes"] == 4 and list(run.glob("events.out.tfevents.*"))


@pytest.mark.slow
def test_dreamer_on_two_workers_equals_one_process(session, tmp_path):
    config = tiny_dreamer(*SHARDS)
    one = state_of(train(config, run_dir=tmp_path / "one"), config)
    workers = dataclasses.replace(config, cluster=ClusterConfig(num_workers=2))
    two = state_of(train(workers, run_dir=tmp_path / "two"), workers)
    for part in ("params", "slow_critic", "return_high", "reward_range"):
        assert_close(getattr(two.learner, part), getattr(one.learner, part), rtol=1e-5, atol=1e-5)
    assert two.replay.count.shape == (4, 1)
    assert_close(two.replay.steps, one.replay.steps)
    assert_close(two.replay.carries, one.replay.carries, rtol=1e-4, atol=1e-5)


def test_workers_that_are_killed_change_nothing(session, finished, tmp_path, capsys):
    """First the one that only follows, then the leader; each while training, after a checkpoint."""
    run, config = finished
    killed = []

    def kill():
        for rank, after in ((1, 2), (0, UPDATES // 2)):
            wait_until(lambda after=after: newest(tmp_path / "run") >= after)
            workers = sorted(pid for pid, words in processes_of(session).items() if words.startswith("ray::Worker"))
            killed.append((rank, newest(tmp_path / "run"), os.getpriority(os.PRIO_PROCESS, workers[rank])))
            os.kill(workers[rank], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    train(config, run_dir=tmp_path / "run")
    thread.join()
    assert_identical(state_of(tmp_path / "run", config), state_of(run, config))
    assert [row["loss"] for row in read_metrics(tmp_path / "run")] == [row["loss"] for row in read_metrics(run)]
    said = capsys.readouterr().err
    assert said.count("The workers are started again and go on from the checkpoint of update") == 2
    assert said.count("env steps are repeated") == 2
    lines = [json.loads(line) for line in (tmp_path / "run" / "failures.jsonl").read_text().splitlines()]
    assert len(lines) == len(killed) == 2
    for line, (_, update, niceness) in zip(lines, killed, strict=True):
        assert niceness == os.getpriority(os.PRIO_PROCESS, 0), "workers must not give way to other processes"
        assert "died" in line["what"] and line["env_steps_resumed_from"] >= 64 * update
        assert line["seconds_until_next_report"] > 0


def test_workers_that_keep_failing_stop_the_run_with_their_traceback(session, tmp_path):
    config = on_two_workers(tiny_config(**OPTIONS | {"env__id": "tests/Broken", "import": "broken_in_workers"}))
    with pytest.raises(TrainingError) as stop:
        train(config, run_dir=tmp_path / "run")
    message = str(stop.value)
    assert "workers failed 2 times in a row without a checkpoint between (cluster.max_failures=1)" in message
    assert "there is no checkpoint yet" in message and "--resume" in message
    assert "ArithmeticError: the moon is in the wrong house" in message and "in step_env" in message
    lines = [json.loads(line) for line in (tmp_path / "run" / "failures.jsonl").read_text().splitlines()]
    assert [line["seconds_until_next_report"] for line in lines] == [None, None]


@pytest.mark.slow
def test_a_worker_that_compiles_for_longer_is_waited_for(session, tmp_path, capsys):
    """Gloo gives up 30 s after the first process has come to the first sum."""
    options = {"env__id": "tests/Late", "import": "late_in_one_worker", "total_env_steps": 128}
    train(on_two_workers(tiny_config(**OPTIONS | options)), run_dir=tmp_path / "run")
    assert newest(tmp_path / "run") == 2 and not (tmp_path / "run" / "failures.jsonl").exists()
    assert "raised an error" not in capsys.readouterr().err


@pytest.fixture
def environment(tmp_path):
    """Of commands that start Ray for themselves."""
    mark = uuid.uuid4().hex
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    yield mark, {**os.environ, **cache, MARK: mark, "XLA_FLAGS": ""}
    for pid in processes_of(mark):
        os.kill(pid, signal.SIGKILL)


def command(*words):
    return [sys.executable, "-m", "hippodrome.launch", "train", *map(str, words)]


@pytest.mark.slow
def test_the_driver_killed_leaves_no_process_and_resume_goes_on(session, finished, tmp_path, environment):
    run, config = finished
    mark, variables = environment
    pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=variables)
    folder = tmp_path / "run"
    flags = [*tiny_flags(**OPTIONS), "--cluster.num-workers", "2"]
    driver = subprocess.Popen(command("quickstart", "--run-dir", folder, *flags), **pipes)
    wait_until(lambda: newest(folder) >= 3)
    assert len([words for words in processes_of(mark).values() if words.startswith("ray::Worker")]) == 2
    driver.kill()
    driver.wait()
    left = set(processes_of(mark))
    # Ray's agents try for a minute to tell of the end before they end themselves.
    wait_until(lambda: all(words in AGENTS for words in processes_of(mark).values()), 30)

    driver = subprocess.Popen(command("--resume", folder), **pipes)
    reached = newest(folder)
    wait_until(lambda: newest(folder) > reached or driver.poll() is not None)
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=120)
    if driver.returncode != 0:  # it had not finished yet
        assert driver.returncode == 130, said
        assert "SIGINT: stopped after update" in said and "hippodrome train --resume" in said
        train(load_config(folder), resume=folder)
    assert_identical(state_of(folder, config), state_of(run, config))
    wait_until(lambda: not left & set(processes_of(mark)), 120)


def test_nodes_that_differ_or_do_not_share_the_folder_are_named(session, tmp_path, monkeypatch):
    from hippodrome.training.cluster import nodes

    nodes.require_equal_nodes(tmp_path, ClusterConfig())
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        ConfigError, match=r"node .* did not answer within 0.001 s: it may be busy \(cluster.start_timeout"
    ):
        nodes.ask_nodes(seconds=1e-3)
    same = {"jax": "1.0", "ray": "2.0"}
    assert nodes.version_differences({"a": same, "b": dict(same)}) == []
    assert nodes.version_differences({"a": same, "b": {"jax": "1.1", "ray": "2.0"}, "c": {"ray": "2.0"}}) == [
        "jax: 1.0 on a; 1.1 on b; absent on c"
    ]

    def answers(**changes):
        own = {"versions": nodes.own_versions(), "token": None, "error": None, **changes}
        monkeypatch.setattr(nodes, "ask_nodes", lambda *_, **__: {"far (10.0.0.2)": own})

    answers()
    with pytest.raises(ConfigError, match=r"is not shared: far \(10.0.0.2\) cannot see .* choose a --run-dir"):
        nodes.require_equal_nodes(tmp_path, ClusterConfig())
    answers(versions={**nodes.own_versions(), "jax": "0.1"})
    with pytest.raises(ConfigError, match=r"jax: .* on this process; 0.1 on far \(10.0.0.2\)"):
        nodes.require_equal_nodes(tmp_path, ClusterConfig())
    answers(error="--import mine: ModuleNotFoundError")
    with pytest.raises(ConfigError, match=r"far .*: --import mine"):
        nodes.require_equal_nodes(tmp_path, ClusterConfig())


def test_cluster_check_tells_in_one_table(session, tmp_path, capsys):
    assert launch.main(["cluster-check", "--folder", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] and result["problems"] == [] and result["workers"] == 2
    (node,) = result["nodes"].values()
    assert node["sees_folder"] and result["folder"] == str(tmp_path)
    assert set(node["devices"]) == {"cpu"} and "jax" in node["versions"]
    assert [each["bytes"] for each in result["all_reduce"]] == [4096, 4 * 2**20, 64 * 2**20]
    assert all(each["seconds"] > 0 for each in result["all_reduce"])
    assert launch.main(["cluster-check", "--folder", str(tmp_path / "nowhere")]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_what_nodes_are_given_is_the_package(tmp_path):
    (tmp_path / "one_file.py").write_text("answer = 42\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        package, module = stage_packages(tmp_path / "staged", ["one_file"])
    script = "import hippodrome.training, one_file; print(hippodrome.__file__, one_file.answer)"
    variables = {**os.environ, "PYTHONPATH": str(tmp_path / "staged")}
    said = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, cwd=tmp_path)
    assert said.stdout.split() == [str(package / "__init__.py"), "42"], said.stderr
    assert (package / "configs" / "suites" / "popgym-easy.yaml").is_file() and not (package / "tests").exists()
    assert module.name == "one_file"
    with pytest.raises(ConfigError, match="'nowhere_at_all' cannot be found here"):
        stage_packages(tmp_path / "other", ["nowhere_at_all"])


def test_bad_input_is_told_within_seconds(tmp_path, monkeypatch):
    config = tiny_config(total_env_steps=2048)
    many = dataclasses.replace(config, num_shards=64, cluster=ClusterConfig(num_workers=64))
    many = dataclasses.replace(many, env=dataclasses.replace(many.env, num_envs=128))
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
    mute = socket.create_server(("127.0.0.1", 0))
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"num_workers=64 \* cluster.cores_per_worker=1 = 64 cores, but this machine"):
        train(many, run_dir=tmp_path / "run")
    for address, message in (
        ("127.0.0.1:1", "nothing listens there .* start a head node by `ray start --head"),
        ("somewhere", "must be HOST:PORT of the head node"),
        ("ray://127.0.0.1:10001", "must be HOST:PORT of the head node"),
        (f"127.0.0.1:{mute.getsockname()[1]}", "what listens there is no head of a Ray cluster"),
    ):
        wrong = dataclasses.replace(config, cluster=ClusterConfig(num_workers=1, address=address))
        with pytest.raises(ConfigError, match=message):
            train(wrong, run_dir=tmp_path / "run")
    assert time.monotonic() - began < 20
    mute.close()
    assert not (tmp_path / "run").exists()
