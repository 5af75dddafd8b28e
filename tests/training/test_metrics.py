"""The log, the progress display, the curve and the run folder."""

import io
import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from hippodrome.training import run_folder
from hippodrome.training.errors import RunFolderError, TrainingError
from hippodrome.training.log import progress
from hippodrome.training.log.curve import draw_learning_curve
from hippodrome.training.log.metrics import MetricsWriter, log_point, read_metrics
from hippodrome.training.log.progress import Progress, ProgressBar, Stopwatch
from hippodrome.training.run_folder import create_run_folder, write_environment


def strict_lines(folder):
    def refuse(word):
        raise AssertionError(f"{word} is not strict JSON")

    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n") or not text
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_lines_are_strict_json(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write({"env_steps": 8, "episode_return": float("nan"), "episodes": jnp.asarray(0), "loss": np.inf})
        writer.write({"env_steps": jnp.asarray(16), "episode_return": jnp.asarray(0.5), "done": np.True_})
    assert strict_lines(tmp_path) == [
        {"env_steps": 8, "episode_return": None, "episodes": 0, "loss": None},
        {"env_steps": 16, "episode_return": 0.5, "done": True},
    ]


def test_lines_are_there_before_the_writer_closes(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write({"env_steps": 8})
    assert strict_lines(tmp_path) == [{"env_steps": 8}]
    writer.close()


def test_seeds_have_a_mean_and_their_own_values():
    row = log_point(
        {
            "env_steps": 8,
            "episode_return": jnp.asarray([1.0, jnp.nan, 0.0]),
            "episodes": jnp.asarray([2, 0, 3]),
            "loss": jnp.full(3, jnp.nan),
        }
    )
    assert row == {
        "env_steps": 8,
        "episode_return": 0.5,
        "episodes": 5,
        "loss": None,
        "per_seed": {"episode_return": [1.0, None, 0.0], "episodes": [2, 0, 3], "loss": [None, None, None]},
    }


def test_resuming_removes_what_came_after_the_checkpoint(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for env_steps in (8, 16, 24):
            writer.write({"env_steps": env_steps, "run": 1})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 32, "ru')
    with MetricsWriter(tmp_path, tensorboard=False, resume_step=16) as writer:
        writer.write({"env_steps": 24, "run": 2})
    assert strict_lines(tmp_path) == [
        {"env_steps": 8, "run": 1},
        {"env_steps": 16, "run": 1},
        {"env_steps": 24, "run": 2},
    ]
    assert [row["env_steps"] for row in read_metrics(tmp_path, up_to=16)] == [8, 16]


def test_resuming_without_a_log_begins_one(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False, resume_step=16) as writer:
        writer.write({"env_steps": 24})
    assert strict_lines(tmp_path) == [{"env_steps": 24}]


def test_tensorboard_events_hold_the_same_numbers(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=True) as writer:
        for env_steps in (8, 16, 24):
            writer.write({"env_steps": env_steps, "loss": jnp.asarray([1.0, 3.0]), "none": jnp.nan})
    with MetricsWriter(tmp_path, tensorboard=True, resume_step=16) as writer:
        writer.write({"env_steps": 24, "loss": 5.0})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "per_seed/loss/0", "per_seed/loss/1"}
    assert [(each.step, each.value) for each in events.Scalars("loss")] == [(8, 2.0), (16, 2.0), (24, 5.0)]


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl cannot be written"):
        MetricsWriter(tmp_path / "missing", tensorboard=False)
    with Path("/dev/full").open("ab", buffering=0) as full, MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer._file = full
        with pytest.raises(TrainingError, match=r"No space left on device.*--resume"):
            writer.write({"env_steps": 8})


def test_a_disk_full_for_the_events_is_an_error_and_not_a_wait(tmp_path):
    # tensorboardX's SummaryWriter stands still for ever here, once its queue of ten is full.
    with Path("/dev/full").open("wb", buffering=0) as full, MetricsWriter(tmp_path, tensorboard=True) as writer:
        writer._events._events._py_recordio_writer._writer = full
        with pytest.raises(TrainingError, match=r"No space left on device.*--resume"):
            writer.write({"env_steps": 8, "loss": 1.0})


@pytest.mark.parametrize("returns", [[], [0.1, 0.5], [[0.1, 0.3], [0.5, float("nan")]]])
def test_the_curve_is_an_image_for_none_one_and_more_seeds(tmp_path, returns):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write({"env_steps": 4, "episode_return": float("nan")})
        for index, value in enumerate(returns):
            writer.write({"env_steps": 8 * (index + 1), "episode_return": np.asarray(value)})
    path = draw_learning_curve(tmp_path, title="title")
    assert path == tmp_path / "learning_curve.png"
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000


def test_the_stopwatch_counts_neither_compiling_nor_pauses(monkeypatch):
    now = iter([100.0, 102.0, 103.0, 150.0, 151.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    watch = Stopwatch()
    watch.resume()
    watch.lap(10)
    assert watch.steps_per_second is None
    watch.lap(10)
    watch.pause()
    watch.resume()
    watch.lap(10)
    assert (watch.seconds, watch.steps, watch.steps_per_second) == (4.0, 20, 5.0)


def test_the_speed_of_learning_leaves_out_what_came_before(monkeypatch):
    """Two updates of a second fill replay, then learning takes four; one without learning comes between."""
    now = iter([0.0, 1.0, 2.0, 6.0, 7.0, 11.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    watch = Stopwatch()
    watch.lap(0)
    for learnt, speed in ((False, None), (False, None), (True, 10 / 4), (False, 20 / 5), (True, 30 / 9)):
        watch.lap(10, learnt=learnt)
        assert watch.learning_speed == speed
    assert watch.steps_per_second == 50 / 11


def test_off_a_terminal_progress_is_a_line_now_and_then(monkeypatch):
    now = iter([0.0, 1.0, 20.0, 40.0, 41.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    output = io.StringIO()
    with ProgressBar(100_000, Console(file=output, force_terminal=False, width=60)) as bar:
        bar.update(Progress(10_000))
        bar.update(Progress(20_000, steps_per_second=100.0, learning_speed=100.0, episode_return=0.25))
        bar.update(Progress(30_000, steps_per_second=20.0, learning_speed=10.0, episode_return=0.25))
        bar.update(Progress(40_000, steps_per_second=1000.0, episode_return=None))
        bar.update(Progress(100_000, steps_per_second=1000.0, learning_speed=1000.0, episode_return=None))
        bar.say("[saved]")
    assert output.getvalue().splitlines() == [
        "10,000/100,000 steps  return -",
        "30,000/100,000 steps  20 steps/s  return 0.250  ETA 1:56:40",
        "40,000/100,000 steps  1,000 steps/s  return -",
        "100,000/100,000 steps  1,000 steps/s  return -  ETA 0:00",
        "[saved]",
    ]


def test_on_a_terminal_progress_is_a_bar():
    output = io.StringIO()
    with ProgressBar(100, Console(file=output, force_terminal=True, width=100)) as bar:
        bar.update(Progress(50, learning_speed=10.0, episode_return=1.0))
    assert "training" in output.getvalue() and "ETA 0:05" in output.getvalue()


def test_a_run_folder_is_made_and_never_reused(tmp_path, monkeypatch):
    folder = create_run_folder(tmp_path / "deep" / "run")
    assert create_run_folder(folder) == folder, "an empty folder may be used"
    (folder / "notes.txt").write_text("")
    with pytest.raises(RunFolderError, match=r"exists and is not empty; choose another or remove it"):
        create_run_folder(folder)
    (folder / "config.yaml").write_text("")
    with pytest.raises(
        RunFolderError, match=r"exists and is not empty; choose another, go on with it by `hippodrome train --resume"
    ):
        create_run_folder(folder)
    with pytest.raises(RunFolderError, match=r"config\.yaml exists and is not empty; choose another or remove it"):
        create_run_folder(folder / "config.yaml")
    with pytest.raises(RunFolderError, match="cannot be made: Not a directory"):
        create_run_folder(folder / "config.yaml" / "run")
    monkeypatch.chdir(tmp_path)
    made = [create_run_folder(None, name="quickstart-popgym/X") for _ in range(3)]
    assert len(set(made)) == 3 and all(each.parent.name == "runs" for each in made)
    assert made[0].name.startswith("quickstart-popgym-X-2")


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(run_folder.tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(RunFolderError, match="cannot be written: Permission denied"):
        create_run_folder(tmp_path / "run")


def test_the_environment_is_recorded_and_resuming_adds_to_it(tmp_path):
    write_environment(tmp_path, ["hippodrome", "train"])
    write_environment(tmp_path, ["hippodrome", "train", "--resume"])
    content = json.loads((tmp_path / "environment.json").read_text())
    assert content["command"] == ["hippodrome", "train"]
    assert [each["command"][-1] for each in content["resumed"]] == ["--resume"]
    assert {"python", "hippodrome", "jax", "flax"} <= set(content["versions"])
    assert content["hardware"]["backend"] in ("cpu", "gpu", "tpu")
    assert content["git"] is None or len(content["git"]["revision"]) == 40
