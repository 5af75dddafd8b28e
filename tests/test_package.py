"""What is shipped, what may import what, and that README, CI and the code say the same."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import jax
import pytest

from hippodrome import training
from hippodrome.launch import main
from hippodrome.training import sweep
from hippodrome.training.cluster.package import FOLDERS
from hippodrome.training.config import load_config, save_config
from hippodrome.training.suite import run as suite

ROOT = Path(__file__).resolve().parent.parent
NOT_SHIPPED = {"tests", "docs", "examples", "benchmarks", "build", "dist", "runs", "results"}
SHIPPED_SUFFIXES = {".py", ".yaml", ".json"}


def package_folders() -> list[Path]:
    """Every folder of the tree that is a package, the root among them."""
    folders = [each.parent for each in ROOT.rglob("__init__.py")]
    return sorted(each for each in folders if not _is_apart(each.relative_to(ROOT)))


def _is_apart(path: Path) -> bool:
    return any(part.startswith(".") or part in NOT_SHIPPED or part.endswith(".egg-info") for part in path.parts)


def shipped_files() -> set[str]:
    """Paths in the wheel that the tree asks for: the code and data files of its packages."""
    files = set()
    for folder in package_folders():
        for path in folder.iterdir():
            if path.is_file() and (path.suffix in SHIPPED_SUFFIXES or path.name == "py.typed"):
                files.add((Path("hippodrome") / path.relative_to(ROOT)).as_posix())
    return files


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_subpackage_is_listed():
    listed = pyproject()["tool"]["setuptools"]["packages"]
    assert listed == sorted(listed)
    found = [".".join(("hippodrome", *each.relative_to(ROOT).parts)) for each in package_folders()]
    assert sorted(found) == listed


def test_nodes_are_given_every_subpackage():
    assert list(FOLDERS) == sorted({each.relative_to(ROOT).parts[0] for each in package_folders() if each != ROOT})


def test_every_folder_with_code_or_yaml_is_a_package():
    folders = set(package_folders())
    for suffix in ("*.py", "*.yaml"):
        for path in ROOT.rglob(suffix):
            if not _is_apart(path.relative_to(ROOT)):
                assert path.parent in folders, f"{path.relative_to(ROOT)} would not be shipped"


def test_the_wheel_holds_what_the_tree_holds(tmp_path):
    for name in shipped_files() | {"hippodrome/pyproject.toml", "hippodrome/README.md"}:
        source = ROOT / Path(name).relative_to("hippodrome")
        copy = tmp_path / "tree" / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)
    build = "from setuptools import build_meta; build_meta.build_wheel('../dist')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path / "tree", check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == shipped_files()
    assert "hippodrome/py.typed" in names
    assert "hippodrome/configs/quickstart.yaml" in names
    assert "hippodrome/configs/suites/popgym-easy.yaml" in names


def test_imports_point_one_way():
    check = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _imports(path: Path) -> set[str]:
    """Top-level names that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_yaml_and_ray_have_their_only_importers():
    importers: dict[str, set[str]] = {"yaml": set(), "ray": set(), "torch": set(), "rlax": set(), "distrax": set()}
    for name in shipped_files():
        if name.endswith(".py"):
            path = Path(name).relative_to("hippodrome")
            for module in _imports(ROOT / path) & set(importers):
                importers[module].add(path.as_posix())
    assert importers["yaml"] == {"training/config/loading.py"}
    assert {Path(each).parent.as_posix() for each in importers["ray"]} == {"training/cluster", "training/sweep"}
    assert not importers["torch"] | importers["rlax"] | importers["distrax"], "not at run time"


def blocks(document: Path, *languages: str) -> list[str]:
    """The fenced code blocks of a Markdown file in one of the languages."""
    fence = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [code for language, code in fence.findall(document.read_text(encoding="utf-8")) if language in languages]


def shell_lines(document: Path) -> list[str]:
    """The commands in a Markdown file's shell blocks, without comments; a backslash continues a line."""
    text = "\n".join(blocks(document, "bash", "sh", "shell", "console")).replace("\\\n", " ")
    lines = (line.partition(" #")[0].strip().removeprefix("$ ") for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def commands(document: Path) -> list[str]:
    """The single commands of those lines, split at `&&`."""
    return [command.strip() for line in shell_lines(document) for command in line.split("&&")]


def test_the_readme_and_ci_run_the_same_commands():
    steps = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    said = commands(ROOT / "README.md")
    for command in ("pip install uv", "uv run pytest"):
        assert command in said, f"README.md does not say {command}"
        assert command in steps, f".ci/run does not run {command}"
    assert any(command.startswith("uv run launch.py train") for command in said)


def test_the_commands_of_the_readme_are_understood(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(training, "train", lambda *_, **__: None, raising=False)
    monkeypatch.setattr("hippodrome.training.evaluation.evaluate.evaluate", lambda *_, **__: {})
    monkeypatch.setattr("hippodrome.training.evaluation.evaluate.evaluation_table", lambda _: "")
    monkeypatch.setattr("hippodrome.training.bench.run_bench", lambda *_, **__: {})
    monkeypatch.setattr("hippodrome.training.inspection.inspect.inspect_run", lambda *_, **__: {})
    monkeypatch.setattr("hippodrome.training.inspection.inspect.inspection_table", lambda _: "")
    monkeypatch.setattr("hippodrome.training.inspection.prediction.predict_run", lambda *_, **__: {})
    monkeypatch.setattr("hippodrome.training.inspection.prediction.prediction_table", lambda _: "")
    monkeypatch.setattr("hippodrome.training.dataset.recording.record_episodes", lambda *_, **__: {})
    monkeypatch.setattr("hippodrome.training.dataset.recording.recording_table", lambda _: "")
    monkeypatch.setattr(suite, "run_suite", lambda name, *_, **__: suite.read_suite(name))
    monkeypatch.setattr("hippodrome.training.sweep.run_sweep", lambda name, **_: sweep.load_sweep(name))
    monkeypatch.setattr("hippodrome.training.sweep.report.report_table", lambda _: "")
    monkeypatch.setattr("hippodrome.training.sweep.report.report_lines", lambda _: [])
    for command in commands(ROOT / "README.md"):
        words = shlex.split(command)
        if words[:3] == ["uv", "run", "launch.py"] or words[:1] == ["hippodrome"]:
            arguments = words[3:] if words[0] == "uv" else words[1:]
            _make_what_is_named(arguments)
            assert main(arguments) == 0, f"{command}\n{capsys.readouterr().err}"


def _make_what_is_named(arguments: list[str]) -> None:
    """Runs, configs and modules of the reader's own, as the README's commands take for granted."""
    for before, word in zip(["", *arguments], arguments, strict=False):
        if before == "--run-dir":
            continue
        if word.startswith("runs/"):
            Path(word).mkdir(parents=True, exist_ok=True)
            save_config(load_config(), Path(word) / "config.yaml")
        elif word.endswith(".yaml"):
            Path(word).parent.mkdir(parents=True, exist_ok=True)
            Path(word).write_text("seed: 0\n")
        elif before == "--import" or re.fullmatch(r"[a-z_]+:[a-z_]+", word):
            Path(f"{word.partition(':')[0]}.py").write_text("")


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_python_snippets_execute(document, tmp_path, monkeypatch, clean_registry):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": document.stem}
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        for code in blocks(document, "python"):
            exec(compile(code, f"{document.name} snippet", "exec"), namespace)
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
