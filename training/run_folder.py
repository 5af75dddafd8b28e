"""The folder of a run: made before training begins, with what it ran on."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hippodrome

from .checkpoint.files import read_json, write_json
from .errors import RunFolderError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "gymnax", "gymnasium", "orbax-checkpoint", "ray", "scipy")
ENVIRONMENT_FILE = "environment.json"


def create_run_folder(path: str | Path | None, *, name: str = "run") -> Path:
    """An empty, writable folder for a new run.

    Args:
        path: where; `runs/<name>-<time>` if None, with a number appended where that is taken.
        name: of the run, such as `quickstart-popgym-RepeatPreviousEasy`.

    Raises:
        RunFolderError: if it exists and is not empty, or cannot be written.
    """
    folder = _free_folder(name) if path is None else Path(path)
    try:
        require_unused(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"run folder {folder} cannot be made: {error.strerror}; choose another --run-dir"
        ) from error
    require_writable(folder)
    return folder


def require_unused(folder: Path) -> None:
    """Raise RunFolderError if there is something in `folder`, or a file in its place."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        is_run = folder.is_dir() and (folder / "config.yaml").is_file()
        resume = f", go on with it by `hippodrome train --resume {folder}`," if is_run else ""
        raise RunFolderError(f"run folder {folder} exists and is not empty; choose another{resume} or remove it")


def require_writable(folder: Path) -> None:
    """Raise RunFolderError if no file can be written in `folder`."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunFolderError(f"run folder {folder} cannot be written: {error.strerror}; choose another") from error


def write_environment(folder: str | Path, command: Sequence[str] | None = None) -> None:
    """Write environment.json: versions, git revision, hardware, command line; a resumed run adds to `resumed`.

    Args:
        folder: of the run.
        command: the words of the command; those of this process where None.
    """
    path = Path(folder) / ENVIRONMENT_FILE
    now = describe_environment(sys.argv if command is None else command)
    before = read_json(path)
    if isinstance(before, dict):
        now = {**before, "resumed": [*before.get("resumed", []), now]}
    write_json(path, now)


def describe_environment(command: Sequence[str]) -> dict[str, Any]:
    """What environment.json holds about this process."""
    import jax

    devices = jax.devices()
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "versions": {
            "python": platform.python_version(),
            "hippodrome": hippodrome.__version__,
            **installed_versions(PACKAGES),
        },
        "git": _git_state(Path(hippodrome.__file__).parent),
        "hardware": {
            "platform": platform.platform(),
            "cpu": _cpu_name(),
            "cpu_cores": usable_cores(),
            "memory_gb": _memory_gb(),
            "backend": jax.default_backend(),
            "devices": [device.device_kind for device in devices],
        },
    }


def _free_folder(name: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"{name.replace('/', '-')}-{stamp}"
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def usable_cores() -> int:
    """Cores this process may compute on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git_state(package: Path) -> dict[str, Any] | None:
    """Revision of the checkout the package is in, or else of the current folder; None where there is none."""
    for folder in (package, Path.cwd()):
        top, revision = _git(folder, "rev-parse", "--show-toplevel"), _git(folder, "rev-parse", "HEAD")
        if revision and (folder != package or Path(top) == package.resolve()):
            changed = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
            return {"revision": revision, "uncommitted_changes": changed}
    return None


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
