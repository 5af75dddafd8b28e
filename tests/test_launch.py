"""The command line by its real commands: what they print, what they write, and their exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hippodrome import __version__, training
from hippodrome.launch import main
from hippodrome.training.errors import CheckpointError, TrainingInterrupted
from tests.tiny import tiny_flags

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder made by `hippodrome train`."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", "quickstart", "--run-dir", str(folder), *tiny_flags(evaluation__episodes=4)]) == 0
    return folder


def test_train_writes_the_documented_run_folder(run):
    names = {each.name for each in run.iterdir()}
    expected = {
        "config.yaml",
        "metrics.jsonl",
        "checkpoints",
        "evaluation.json",
        "environment.json",
        "learning_curve.png",
    }
    assert expected <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"env_steps", "wall_time", "steps_per_second", "episode_return", "episodes"} <= set(rows[-1])
    assert json.loads((run / "environment.json").read_text())["command"][:3] == ["hippodrome", "train", "quickstart"]


def test_evaluate_prints_a_table_and_its_json_twin(run, capsys):
    assert main(["evaluate", str(run), "--episodes", "4"]) == 0
    assert "deterministic" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--episodes", "4", "--seed", "1", "--step", "4", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"env", "episodes", "seeds", "return", "return_sampled", "failed_seeds"} <= set(result)
    assert {"mean", "std", "iqm", "iqm_low", "iqm_high", "min", "max", "per_seed"} <= set(result["return"])


def test_a_finished_run_goes_on_when_given_more_steps(run, capsys):
    before = len((run / "metrics.jsonl").read_text().splitlines())
    assert main(["train", "--resume", str(run), "--total-env-steps", str(64 * 5)]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["env_steps"] for row in rows] == [64 * update for update in range(1, 6)]
    assert len(rows) == before + 1
    capsys.readouterr()


def test_a_run_that_exists_is_not_overwritten(run, capsys):
    assert main(["train", "quickstart", "--run-dir", str(run), *tiny_flags()]) == 2
    error = capsys.readouterr().err
    assert "exists and is not empty" in error and f"--resume {run}" in error


def test_a_checkpoint_of_another_config_says_what_differs(run, capsys):
    assert main(["train", "--resume", str(run), "--memory.d_model", "16"]) == 2
    assert "memory.d_model: 16 now, 8 in the run" in capsys.readouterr().err


def test_a_run_folder_is_a_config_and_the_designs_overrides_parse(run, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "train", lambda config, **options: seen.append((config, options)), raising=False)
    assert main(["train", str(run), "--memory.kind", "gru", "--agent.gamma", "0.99"]) == 0
    config, options = seen[0]
    assert (config.memory.kind, config.memory.d_model, config.agent.gamma) == ("gru", 8, 0.99)
    assert options["run_dir"] is None and options["resume"] is None
    assert main(["train"]) == 0
    assert seen[1][0].env.id == "popgym/RepeatPreviousEasy"


def test_bad_input_is_exit_code_2_with_a_suggestion(capsys, tmp_path):
    cases = {
        ("train", "--memory.kind", "grru"): "did you mean 'gru'?",
        ("train", "--memory.d_modle", "4"): "did you mean '--memory.d_model'?",
        ("train", "--env.id", "popgym/RepeatPreviusEasy"): "did you mean popgym/RepeatPreviousEasy",
        ("train", "--env.num-envs", "6", "--agent.num-minibatches", "4"): (
            "env.num_envs=6 must be divisible by agent.num_minibatches=4"
        ),
        ("train", "quikstart"): "did you mean 'quickstart'?",
        ("train", "quickstart", "quickstart"): "quickstart",
        ("train", "--max-time", "abc", "--agent.gamma", "2"): "2 errors",
        ("train", "--env.kwargs", "decks=2"): "its arguments: num_decks",
        ("train", "--resume", str(tmp_path)): "is no run",
        ("train", "--resume", "x", "--run-dir", "y"): "leave --run-dir out",
        ("train", "--run-dir", "/proc/nowhere/run"): "cannot be made",
        ("train", "--import", "no_such_package"): "--import no_such_package",
        ("evaluate",): "RUN",
        ("evaluate", str(tmp_path)): "is no run",
        ("evaluate", "no_such_module:policy", "--env", "popgym/RepeatFirstEasy"): "no_such_module",
        ("evaluate", str(tmp_path), "--episodes", "0"): "at least 1",
        ("evaluate", str(tmp_path), "--step", "newest"): "best, last or the number",
        ("suite",): "NAME is missing",
        ("suite", "popgym-eazy"): "did you mean 'popgym-easy'?",
        ("list", "envz"): "did you mean 'envs'?",
        ("trian",): "did you mean 'train'?",
        (): "",
    }
    for arguments, message in cases.items():
        assert main(list(arguments)) == 2, arguments
        assert message in capsys.readouterr().err, arguments


def test_all_errors_of_a_file_are_printed_at_once(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("memory: {kind: s5, d_modle: 3}\nagent: {gamma: high}\nseed: -1")
    assert main(["train", str(tmp_path / "bad.yaml")]) == 2
    error = capsys.readouterr().err
    assert "bad.yaml: 3 errors" in error
    assert all(text in error for text in ("did you mean 'd_model'?", "agent.gamma='high'", "seed=-1"))


@pytest.mark.parametrize(
    ("error", "code"), [(TrainingInterrupted("saved; resume by X"), 130), (CheckpointError("full"), 1)]
)
def test_interruption_and_failure_have_their_exit_codes(monkeypatch, capsys, error, code):
    def train(*_, **__):
        raise error

    monkeypatch.setattr(training, "train", train, raising=False)
    assert main(["train"]) == code
    assert str(error) in capsys.readouterr().err


def test_an_interruption_before_training_is_130(monkeypatch):
    def train(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", train, raising=False)
    assert main(["train"]) == 130


@pytest.mark.parametrize("what", ["envs", "memories", "agents", "configs", "suites"])
def test_list_prints_names_and_their_json_twin(what, capsys):
    assert main(["list", what]) == 0
    lines = capsys.readouterr().out.split()
    assert main(["list", what, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == lines
    known = {"envs": "popgym/RepeatPreviousHard", "memories": "s5", "agents": "ppo"}
    assert known.get(what, {"configs": "quickstart", "suites": "popgym-easy"}.get(what)) in lines


def test_list_shows_what_imported_packages_register(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_listed_envs.py").write_text(
        "from hippodrome.envs import register_env\n"
        "register_env('listed/Corridor', 'hippodrome.envs.popgym.repeat_first:RepeatFirst', num_decks=1)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["list", "envs", "--import", "my_listed_envs"]) == 0
    assert "listed/Corridor" in capsys.readouterr().out.split()


def test_every_command_has_help(capsys):
    for arguments in ([], ["train"], ["evaluate"], ["record"], ["suite"], ["suite", "popgym-easy"], ["list"]):
        assert main([*arguments, "--help"]) == 0, arguments
        text = capsys.readouterr().out
        assert "hippodrome" in text and len(text) > 100, arguments
    main(["--help"])
    assert "examples:" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hippodrome {__version__}\n"


def _run(*arguments: str, code: int = 0) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, env=os.environ)
    assert done.returncode == code, done.stderr
    return done.stdout


def test_help_and_names_of_configs_do_not_wait_for_jax():
    assert "examples:" in _run("launch.py", "--help")
    script = (
        "import sys; from hippodrome.launch import main; code = main({}); sys.exit(code or ('jax' in sys.modules) * 3)"
    )
    for arguments in (["--help"], ["list", "configs"], ["list", "suites"]):
        _run("-c", script.format(arguments))


def test_a_reader_that_leaves_early_is_no_error():
    script = f"{sys.executable} launch.py list suites | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
