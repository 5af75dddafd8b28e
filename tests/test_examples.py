"""Every example runs and shows what it says; the package in examples/own_memory is found by both ways of loading."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import jax
import pytest

from hippodrome.launch import main
from hippodrome.memory import list_memories, registry
from hippodrome.training.config import load_config
from tests.tiny import tiny_flags

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
OWN_MEMORY = EXAMPLES / "own_memory"
# Fewer updates than the script's own, as the program without optimisations is slow; each asserts that it learns.
SCRIPTS = {"batch_major": {}, "linen_agent": {"num_updates": 20}, "nnx_agent": {"num_updates": 20}, "pure_jax": {}}


@pytest.fixture(autouse=True, scope="module")
def unoptimised():
    """Compile without most optimisations: the examples spend their time compiling."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def apart(monkeypatch):
    """Nothing of the example's package is known before the test, nor left behind by it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert "leaky" not in list_memories()
    yield
    sys.modules.pop("hippodrome_leaky", None)
    registry._CLASSES.pop("leaky", None)
    registry._CONFIGS.pop("leaky", None)


def load(path: Path, monkeypatch) -> ModuleType:
    """The module of a file, which is not run as a script."""
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    # flax looks the module of a class up by its name.
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


# Beside what pyproject.toml asks for they need a package of the same name, and are run where it is.
WITH = {"stable_baselines3_agent": "stable_baselines3"}


def test_every_script_is_run_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SCRIPTS, *WITH}


@pytest.mark.parametrize("name", WITH)
def test_the_script_with_another_library_shows_what_it_says(name, monkeypatch):
    pytest.importorskip(WITH[name])
    module = load(EXAMPLES / f"{name}.py", monkeypatch)
    before, after = module.main()
    assert after > before + 0.2


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_shows_what_it_says(name, monkeypatch, capsys):
    module = load(EXAMPLES / f"{name}.py", monkeypatch)
    assert f"uv run python examples/{name}.py" in module.__doc__
    module.main(**SCRIPTS[name])
    assert capsys.readouterr().out


def train_leaky(run: Path, *flags: str) -> int:
    """A tiny run of stock PPO over the example's memory, its own option given by a flag; the exit code."""
    options = tiny_flags(memory__kind="leaky", memory__tau_max=20.0, evaluation__episodes=2, total_env_steps=64)
    state = options.index("--memory.d-state")  # a field of S5
    del options[state : state + 2]
    return main(["train", "quickstart", "--run-dir", str(run), *flags, *options])


def test_a_memory_of_ones_own_keeps_the_laws(apart, monkeypatch):
    monkeypatch.syspath_prepend(str(OWN_MEMORY))
    tests = load(OWN_MEMORY / "tests" / "test_leaky.py", monkeypatch)
    checks = [check for name, check in vars(tests).items() if name.startswith("test_")]
    assert len(checks) == 4
    for check in checks:
        check()


def test_a_memory_of_ones_own_trains_by_import(apart, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(OWN_MEMORY)
    assert train_leaky(tmp_path / "unknown") == 2
    assert "'leaky'" in capsys.readouterr().err
    assert train_leaky(tmp_path / "run", "--import", "hippodrome_leaky") == 0
    config = load_config(tmp_path / "run")
    assert (config.memory.kind, config.memory.tau_max) == ("leaky", 20.0)
    assert config.import_modules == ("hippodrome_leaky",)


def test_a_memory_of_ones_own_trains_by_its_entry_point(apart, tmp_path, monkeypatch):
    """The package is built and unpacked, which is what an installation does, with no network."""
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(OWN_MEMORY, source)
    build = "from setuptools import build_meta; build_meta.build_wheel('../dist')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(site))
    assert train_leaky(tmp_path / "run") == 0
    assert Path(sys.modules["hippodrome_leaky"].__file__).is_relative_to(site)
    config = load_config(tmp_path / "run")
    assert (config.memory.kind, config.import_modules) == ("leaky", ())
