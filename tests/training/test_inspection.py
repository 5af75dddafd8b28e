"""`inspect_run` and `hippodrome inspect`: what they say of a run, what they write, and what they refuse."""

import json
import struct

import jax
import numpy as np
import pytest
from rich.console import Console

from hippodrome.launch import main
from hippodrome.memory.horizon import lag_at_mass
from hippodrome.training import load_policy, train
from hippodrome.training.config import load_config
from hippodrome.training.errors import ConfigError, RunFolderError
from hippodrome.training.evaluation.evaluate import restore_run
from hippodrome.training.inspection.inspect import initial_params, inspect_run, inspection_table
from hippodrome.training.log.events import EventWriter
from tests.compare import assert_identical
from tests.tiny import tiny_config, tiny_flags

SMALL = dict(lags=4, num_envs=2, num_probes=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One update of two seeds, whose rollout holds whole episodes: the best parameters are those it began with."""
    config = tiny_config(
        num_seeds=2, evaluation__episodes=4, agent__num_steps=64, total_env_steps=64 * 8, agent__learning_rate=0.01
    )
    return train(config, run_dir=tmp_path_factory.mktemp("runs") / "two-seeds")


def test_before_are_the_parameters_that_the_first_update_began_with(run):
    config = load_config(run)
    experiment, state, _ = restore_run(run, config, "last")
    np.testing.assert_array_equal(state.best.update, [0, 0])
    for index in range(2):
        of_seed = jax.tree.map(lambda leaf, index=index: leaf[index], (state.best.params, state.learner.params))
        before = initial_params(config, experiment, index)
        assert_identical(before, of_seed[0])
        kernels = [each.network["params"]["actor"]["memory"]["layers_0"]["layer"]["C"] for each in (before, of_seed[1])]
        assert not np.array_equal(*kernels)


def test_a_run_begun_from_another_is_compared_with_that(run, tmp_path, capsys):
    config = tiny_config(init_from=run, evaluation__episodes=4, total_env_steps=64)
    begun = train(config, run_dir=tmp_path / "begun")
    experiment, state, _ = restore_run(begun, load_config(begun), "last")
    before = initial_params(load_config(begun), experiment)
    assert_identical(before, load_policy(run).params)
    assert_identical(before, state.best.params)
    run.rename(run.with_name("moved"))
    try:
        assert main(["inspect", str(begun)]) == 2
        assert "the run that this one began with is not there" in capsys.readouterr().err
    finally:
        run.with_name("moved").rename(run)


def test_the_result_is_written_whole(run):
    result = inspect_run(run, **SMALL, train_seed=1, seed=3)
    assert json.loads((run / "inspection.json").read_text()) == result
    assert {"env", "memory", "checkpoint", "update", "env_steps", "train_seed", "inspection_seed", "lags", "carry",
            "init_from", "layers", "horizons"} == set(result)  # fmt: skip
    assert (result["train_seed"], result["update"], result["env_steps"]) == (1, 1, 512)
    # d_state 4: two complex states of two numbers.
    assert result["carry"] == {"values": 4, "bytes": 16}
    (layer,) = result["layers"]
    assert (layer["memory"], layer["name"], layer["kind"]) == ("shared", "layers_0/layer", "S5")
    assert layer["carry"] == result["carry"] and layer["source"] == "constant" and layer["note"] is None

    config = load_config(run)
    experiment, state, _ = restore_run(run, config, "last")
    for when, params in (("before", initial_params(config, experiment, 1)), ("after", state.learner.params)):
        p = params.network["params"]["actor"]["memory"]["layers_0"]["layer"]
        p = {name: np.asarray(leaf if when == "before" else leaf[1], np.float64) for name, leaf in p.items()}
        decay = np.exp((p["Lambda_re"] + 1j * p["Lambda_im"]) * np.exp(p["log_dt"]))
        constants = -1 / np.log(np.abs(decay))
        spectrum = layer[when]
        assert spectrum["count"] == 2 and spectrum["not_decaying"] == 0.0
        found = [complex(*pair) for pair in spectrum["sample"]]
        np.testing.assert_allclose(found, decay[np.argsort(np.abs(decay))], rtol=1e-5)
        expected = [constants.min(), np.median(constants), constants.max()]
        np.testing.assert_allclose(list(spectrum["time_constant"].values()), expected, rtol=1e-3)
    assert layer["before"] != layer["after"]

    horizon = result["horizons"]["shared"]
    assert horizon["samples"] == [4] * 5
    for when in ("before", "after"):
        gradient = horizon[when]["gradient"]
        assert len(gradient) == 5 and all(each > 0 for each in gradient)
        expected = {name: lag_at_mass(gradient, float(name)) for name in ("0.5", "0.9", "0.99")}
        assert horizon[when]["lag_at_mass"] == expected
    assert horizon["before"] != horizon["after"]
    assert inspect_run(run, **SMALL, train_seed=1, seed=3) == result


def test_the_picture_is_a_png_and_a_tensorboard_image(run):
    inspect_run(run, **SMALL)
    picture = (run / "inspection.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    assert not list(run.glob(".*.writing"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run)).Reload()
    assert events.Tags()["images"] == ["inspection"] and "loss" in events.Tags()["scalars"]
    image = events.Images("inspection")[-1]
    assert (image.step, image.encoded_image_string) == (512, picture)
    assert (image.width, image.height) == struct.unpack(">II", picture[16:24])


def test_only_a_png_is_an_image(tmp_path):
    events = EventWriter(tmp_path)
    with pytest.raises(ValueError, match="must be a PNG"):
        events.image("picture", b"GIF89a", 0)
    events.close()


def test_the_best_parameters_of_a_first_update_are_those_it_began_with(run):
    result = inspect_run(run, **SMALL, step="best")
    assert result["checkpoint"] == "best" and result["horizons"]["shared"]["samples"] == [4] * 5
    assert result["layers"][0]["before"] == result["layers"][0]["after"]
    assert result["horizons"]["shared"]["before"] == result["horizons"]["shared"]["after"]


def train_tiny(folder, capsys, *flags):
    """A run by the command line, of flags beside the tiny ones for a memory without d_state."""
    words = tiny_flags(evaluation__episodes=4, total_env_steps=64)
    at = words.index("--memory.d-state")
    assert main(["train", "quickstart", "--run-dir", str(folder), *words[:at], *words[at + 2 :], *flags]) == 0
    capsys.readouterr()


def test_input_dependent_decays_and_layers_without_any(tmp_path, capsys):
    train_tiny(tmp_path / "run", capsys, "--memory.kind", "hybrid", "--memory.layers", "mamba", "attention")
    assert main(["inspect", str(tmp_path / "run"), "--lags", "3", "--step", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    mamba, attention = result["layers"]
    assert (mamba["kind"], mamba["source"], mamba["note"]) == ("Mamba", "observed", None)
    for when in ("before", "after"):
        assert 0 < mamba[when]["modulus"]["min"] < mamba[when]["modulus"]["max"] <= 1
        # 6 steps, less the first, of 4 environments, d_inner 16 and d_state 16.
        assert mamba[when]["count"] == 5 * 4 * 16 * 16 and len(mamba[when]["sample"]) == 1024
    assert (attention["kind"], attention["source"], attention["after"]) == ("SlidingWindowAttention", "none", None)
    assert "nothing in it decays" in attention["note"]
    assert result["carry"]["values"] == mamba["carry"]["values"] + attention["carry"]["values"]
    console = Console(width=120)
    with console.capture() as capture:
        console.print(inspection_table(result))
    assert "layers_1/layer: SlidingWindowAttention keeps a window" in capture.get()


def test_a_run_without_memory_looks_at_the_present_alone(tmp_path, capsys):
    train_tiny(tmp_path / "run", capsys, "--memory.kind", "none", "--agent.no-share-memory")
    assert main(["inspect", str(tmp_path / "run"), "--lags", "3"]) == 0
    printed = capsys.readouterr().out
    assert "actor/layers_0/layer: NoMemory has no state" in printed and "memory horizon" in printed
    result = json.loads((tmp_path / "run" / "inspection.json").read_text())
    assert result["carry"] == {"values": 0, "bytes": 0}
    assert list(result["horizons"]) == [layer["memory"] for layer in result["layers"]] == ["actor", "critic"]
    for horizon in result["horizons"].values():
        assert horizon["after"]["gradient"][0] > 0 and horizon["after"]["gradient"][1:] == [0.0] * 3
        assert set(horizon["after"]["lag_at_mass"].values()) == {0}


def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path, capsys):
    cases = {
        ("inspect",): "RUN",
        ("inspect", "nowhere"): "there is no run folder 'nowhere'",
        ("inspect", str(tmp_path)): "is no run",
        ("inspect", str(run), "--lags", "0"): "--lags 0 must be at least 1",
        ("inspect", str(run), "--seed", "-1"): "must be from 0",
        ("inspect", str(run), "--step", "newest"): "best, last or the number",
        ("inspect", str(run), "--step", "9"): "step=9 must be a checkpoint",
        ("inspect", str(run), "--train-seed", "first"): "best or the number",
        ("inspect", str(run), "--train-seed", "2"): "train_seed=2 must be below the run's num_seeds=2",
    }
    for arguments, message in cases.items():
        assert main(list(arguments)) == 2, arguments
        assert message in capsys.readouterr().err, arguments
    assert main(["inspect", "--help"]) == 0
    assert "--lags" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="num_probes=0 must be at least 1"):
        inspect_run(run, num_probes=0)


def test_a_folder_that_cannot_be_written_is_named(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hippodrome.training.inspection.inspect.write_json", full)
    with pytest.raises(RunFolderError, match=r"inspection\.json cannot be written: No space left on device"):
        inspect_run(run, **SMALL)
