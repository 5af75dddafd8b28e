"""Hippodrome and users' packages as folders that Ray carries to nodes which have neither.

Ray gives a folder in `py_modules` to the nodes under its own name. A checkout has any name and holds far more than the
package, so what the package consists of is copied into a folder of the right one. (Ray takes wheels too, but the nodes
then need pip and an index, and every worker its own copy of jax.)
"""

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

import hippodrome
from hippodrome.training.errors import ConfigError

# The subpackages at the first level; a test compares them with those of pyproject.toml.
FOLDERS = ("agents", "commands", "configs", "envs", "memory", "training")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")


def stage_packages(folder: Path, import_modules: Sequence[str] = ()) -> list[Path]:
    """Copies of hippodrome and of the modules given, one folder each, below `folder`.

    Raises:
        ConfigError: for a module that cannot be found.
    """
    source, target = Path(hippodrome.__file__).parent, folder / "hippodrome"
    target.mkdir(parents=True)
    for path in (*source.glob("*.py"), source / "py.typed"):
        if path.is_file():
            shutil.copy(path, target)
    for name in FOLDERS:
        shutil.copytree(source / name, target / name, ignore=_LEFT_OUT)
    return [target, *(_stage(name, folder) for name in dict.fromkeys(each.split(".")[0] for each in import_modules))]


def _stage(name: str, folder: Path) -> Path:
    """A package as it is; a module in one file as a package of the same name."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ConfigError(f"import_modules: module {name!r} cannot be found here, so no node can be given it")
    target = folder / name
    if spec.submodule_search_locations:
        shutil.copytree(Path(spec.origin).parent, target, ignore=_LEFT_OUT)
    else:
        target.mkdir()
        shutil.copy(spec.origin, target / "__init__.py")
    return target
