"""Configurations: YAML files and command-line overrides to a checked TrainConfig, and back.

YAML is read and written here and nowhere else. Order: the YAML and any `--memory.kind`, `--agent.kind`, `--import`
first; imports and entry points register; then everything is parsed against the types of those kinds.
"""

import dataclasses
import importlib.resources
import logging
import os
import re
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml

from hippodrome.training.errors import ConfigError, unknown_name

from .overrides import parse_overrides, switch_env, switch_kinds, take_early
from .plugins import load_plugins
from .schema import (
    TrainConfig,
)
from .validation import validate

DEFAULT_CONFIG = "quickstart"
# Files in configs/suites that are no suites: what returns are normalised by and compared with.
_SUITE_TABLES = ("baselines", "references")
_LOG = logging.getLogger("hippodrome.config")


def load_config(
    source: str | Path = DEFAULT_CONFIG,
    overrides: Sequence[str] = (),
    *,
    prog: str = "hippodrome train",
    description: str = "",
) -> TrainConfig:
    """The configuration of a file, a run folder or a shipped config, with command-line overrides.

    Its fields have the right types and are within their bounds; `check_config` judges the rules between them.

    Args:
        source: a YAML file, a run folder (its config.yaml), or a name from `list_configs()`.
        overrides: flags such as `["--memory.kind", "gru", "--agent.gamma", "0.99"]`. Switching a kind keeps the
            fields that both kinds have, and logs which were dropped.
        prog: the command, for `--help` and messages.
        description: the head of the `--help` text.

    Raises:
        ConfigError: with every error of the file, or else every error of the command line.
    """
    raw = read_yaml(find_config(source))
    return config_from(raw, overrides, where=str(source), prog=prog, description=description)


def config_from(
    raw: dict[str, Any],
    overrides: Sequence[str] = (),
    *,
    where: str,
    prog: str = "hippodrome train",
    description: str = "",
) -> TrainConfig:
    """The configuration of a mapping as `read_yaml` gives it; arguments and errors as of `load_config`."""
    raw = dict(raw)
    early = take_early(overrides)
    imports = raw.get("import_modules") or []
    if isinstance(imports, list) and all(isinstance(each, str) for each in imports):
        imports = list(dict.fromkeys([*imports, *early.imports]))
        raw["import_modules"] = imports
        load_plugins(imports)
    raw = switch_env(switch_kinds(raw, early.kinds, _LOG.warning), early.rest, _LOG.warning)
    config = validate(raw, where=where)
    if early.rest:
        parsed = parse_overrides(config, early.rest, read_word=parse_scalar, prog=prog, description=description)
        config = validate(dataclasses.asdict(parsed), where="command line")
    config = TrainConfig(**{field.name: getattr(config, field.name) for field in dataclasses.fields(TrainConfig)})
    if "num_shards" not in raw and not any(word.startswith("--num-shards") for word in early.rest):
        return dataclasses.replace(config, num_shards=config.total_devices)
    return config


def merged(raw: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`raw` with nested values replaced; another kind of memory or agent drops the fields it does not have."""
    kinds = {}
    for section in ("memory", "agent"):
        value = changes.get(section)
        if isinstance(value, str):
            changes = {**changes, section: {"kind": value}}
        if isinstance(changes.get(section), dict) and "kind" in changes[section]:
            kinds[section] = changes[section]["kind"]
    result = switch_kinds(raw, kinds, _LOG.warning)
    for name, value in changes.items():
        before = result.get(name)
        result[name] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return result


def save_config(config: TrainConfig, path: str | Path) -> None:
    """Write a configuration, every field resolved, as YAML that `load_config` reads; whole or not at all.

    Raises:
        OSError: if the folder cannot be written.
    """
    write_yaml(dataclasses.asdict(config), Path(path))


def write_yaml(fields: dict[str, Any], path: Path) -> None:
    """Write a mapping as YAML; whole or not at all. Raises OSError if the folder cannot be written."""
    text = yaml.safe_dump(_plain(fields), sort_keys=False, allow_unicode=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def config_differences(
    here: TrainConfig,
    there: TrainConfig,
    *,
    names: tuple[str, str] = ("here", "in the checkpoint"),
    ignore: Collection[str] = (),
) -> list[str]:
    """One line for each field in which two configurations differ: `memory.d_model: 64 here, 128 in the checkpoint`.

    Args:
        here: a configuration.
        there: another one.
        names: how the lines call them.
        ignore: dotted paths of fields or sections that may differ.
    """
    left, right = (_flatten(dataclasses.asdict(each)) for each in (here, there))
    # Under another kind, the fields that only one of the kinds has say nothing new.
    other_kind = tuple(f"{each}." for each in ("memory", "agent") if left[f"{each}.kind"] != right[f"{each}.kind"])
    lines = []
    for path in dict.fromkeys([*left, *right]):
        both = path in left and path in right
        differs = left[path] != right[path] if both else not path.startswith(other_kind)
        if differs and not any(path == each or path.startswith(f"{each}.") for each in ignore):
            lines.append(f"{path}: {left.get(path, 'absent')} {names[0]}, {right.get(path, 'absent')} {names[1]}")
    return lines


def find_config(source: str | Path) -> Path:
    """The YAML file that `source` names: itself, the config.yaml of a run folder, or a shipped config.

    Raises:
        ConfigError: if there is none, with the nearest shipped name.
    """
    path = Path(source)
    if path.is_dir():
        if (path / "config.yaml").is_file():
            return path / "config.yaml"
        raise ConfigError(
            f"{source} is a folder without config.yaml, so it is no run; give a run folder or a YAML file"
        )
    if path.is_file():
        return path
    name = str(source)
    if name in list_configs():
        return _shipped("configs") / f"{name}.yaml"
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise ConfigError(f"there is no file or run folder {source}; shipped configs: {', '.join(list_configs())}")
    message = unknown_name("config", name.removesuffix(".yaml").removeprefix("configs/"), list_configs())
    raise ConfigError(f"{message}; give a YAML file, a run folder or one of those names")


def list_sweeps() -> list[str]:
    """Names of the shipped sweeps."""
    return _yaml_names("configs/sweeps")


def find_sweep(source: str | Path) -> Path:
    """The YAML file of a sweep that `source` names: itself, or a shipped one. Raises ConfigError if there is none."""
    path = Path(source)
    if path.is_file():
        return path
    if str(source) in list_sweeps():
        return _shipped("configs/sweeps") / f"{source}.yaml"
    message = unknown_name("sweep", source, list_sweeps())
    raise ConfigError(f"{message}; give a YAML file or one of those names")


def config_name(source: str | Path) -> str:
    """A short name for run folders: of the file, without its suffix; of a run folder, its own name."""
    path = find_config(source)
    return path.resolve().parent.name if path.name == "config.yaml" else path.stem


def list_configs() -> list[str]:
    """Names of the shipped configurations."""
    return _yaml_names("configs")


def list_suites() -> list[str]:
    """Names of the shipped suites of environments."""
    return [name for name in _yaml_names("configs/suites") if name not in _SUITE_TABLES]


def load_suite(name: str) -> Any:
    """The content of a shipped file in configs/suites.

    Raises:
        ConfigError: for an unknown name, with the nearest known.
    """
    if name not in _yaml_names("configs/suites"):
        raise ConfigError(unknown_name("suite", name, list_suites()))
    return read_yaml(_shipped("configs/suites") / f"{name}.yaml")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; `5e-5` is a number, and a key given twice is an error.

    Raises:
        ConfigError: if it cannot be read, is not YAML, or is no mapping; with the line.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ConfigError(f"line {mark.line + 1}: {error.problem}" if mark else str(error), str(path)) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot be read: {error}", str(path)) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"must be a mapping of fields, not {type(content).__name__}", str(path))
    return content


def parse_scalar(text: str) -> Any:
    """The value a word would have in a YAML file: a number, boolean, null, list or string."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without dates, with 5e-5 as a number and without silently repeated keys."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _shipped(folder: str) -> Any:
    return importlib.resources.files("hippodrome").joinpath(folder)


def _yaml_names(folder: str) -> list[str]:
    return sorted(each.name.removesuffix(".yaml") for each in _shipped(folder).iterdir() if each.name.endswith(".yaml"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, each in value.items():
        if isinstance(each, dict) and each:
            flat |= _flatten(each, f"{prefix}{key}.")
        else:
            flat[prefix + key] = each
    return flat
