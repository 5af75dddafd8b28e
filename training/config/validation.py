"""From a mapping, as read from YAML, to a typed configuration; or to one error that names everything wrong with it."""

import dataclasses
import functools
import json
import typing
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic
import tyro

from hippodrome.training.errors import ConfigError, unknown_name

from .checks import problems
from .schema import TrainConfig

DEFAULT_KINDS = {"memory": "s5", "agent": "ppo"}


def known_kinds(section: str) -> list[str]:
    """The registered memories (`section="memory"`) or agents (`section="agent"`)."""
    if section == "memory":
        from hippodrome.memory import list_memories

        return list_memories()
    from hippodrome.agents import list_agents

    return list_agents()


def kind_type(section: str, kind: str) -> type:
    """The configuration dataclass of a memory or agent kind."""
    if section == "memory":
        from hippodrome.memory import memory_config

        return memory_config(kind)
    from hippodrome.agents import agent_config

    return agent_config(kind)


def config_type(memory_kind: str, agent_kind: str) -> type[TrainConfig]:
    """TrainConfig with the memory and agent fields typed for these kinds: what pydantic checks and tyro parses."""
    return _typed_config(kind_type("memory", memory_kind), kind_type("agent", agent_kind))


@functools.cache
def _typed_config(memory_type: type, agent_type: type) -> type[TrainConfig]:
    return dataclasses.make_dataclass(
        "TypedTrainConfig",
        [
            ("memory", memory_type, dataclasses.field(default_factory=memory_type)),
            ("agent", agent_type, dataclasses.field(default_factory=agent_type)),
            ("import_modules", Annotated[tuple[str, ...], tyro.conf.arg(name="import")], dataclasses.field(default=())),
        ],
        bases=(TrainConfig,),
        frozen=True,
        kw_only=True,
        namespace={
            "__doc__": TrainConfig.__doc__,
            "__module__": __name__,
            # Nested dataclasses without a configuration of their own inherit this one.
            "__pydantic_config__": pydantic.ConfigDict(extra="forbid", allow_inf_nan=False),
        },
    )


def kind_of(raw: Mapping[str, Any], section: str) -> Any:
    """The kind a mapping chooses for `memory` or `agent`; the default one where it names none."""
    value = raw.get(section)
    if isinstance(value, Mapping):
        return value.get("kind", DEFAULT_KINDS[section])
    return DEFAULT_KINDS[section] if value is None else value


def validate(raw: Mapping[str, Any], *, where: str | None = None) -> TrainConfig:
    """The typed configuration a mapping describes; what it leaves out has its default.

    `memory: s5` is short for `memory: {kind: s5}`. Kinds must be registered before, see `plugins.load_plugins`.

    Args:
        raw: nested mappings, lists, strings, numbers, booleans and None.
        where: the file it was read from, for the error.

    Raises:
        ConfigError: with one line for each unknown key or kind, each value of a wrong type or beyond its bounds, and
            each rule between fields that can still be judged.
    """
    raw = dict(raw)
    errors: list[str] = []
    broken: set[str] = set()
    kinds = {}
    for section, default in DEFAULT_KINDS.items():
        kinds[section] = kind_of(raw, section)
        if isinstance(raw.get(section), str):
            raw[section] = {"kind": raw[section]}
        if kinds[section] not in known_kinds(section):
            errors.append(unknown_name(f"{section}.kind", kinds[section], known_kinds(section)))
            broken.add(section)
            raw.pop(section)
            kinds[section] = default
    cls = config_type(kinds["memory"], kinds["agent"])
    config, found, repaired = _parse(cls, raw)
    errors += found
    broken |= repaired
    if errors:
        errors += [each.message for each in problems(config) if not each.touches(broken)]
        raise ConfigError(errors, where)
    return config


def _parse(cls: type[TrainConfig], raw: dict[str, Any]) -> tuple[TrainConfig, list[str], set[str]]:
    """The configuration without the values that are wrong, the errors, and the paths of those values.

    Wrong values are left out and the rest is parsed again, as some rules are judged only once all types are right.
    """
    adapter = pydantic.TypeAdapter(cls)
    errors: list[str] = []
    paths: set[str] = set()
    while True:
        # JSON in strict mode: a list may fill a tuple and 1 a float, but "1" is no number and true no integer.
        try:
            return adapter.validate_json(json.dumps(_integral(raw)), strict=True), errors, paths
        except pydantic.ValidationError as error:
            found = [(_path_in(raw, each["loc"]), each) for each in error.errors()]
            for path, each in found:
                errors += [message for message in [_message(cls, raw, path, each)] if message not in errors]
            before = raw
            for path, _ in found:
                raw = _without(raw, path)
                paths.add(".".join(map(str, path)))
            if raw == before:
                raise ConfigError(errors) from error


def _integral(value: Any) -> Any:
    """`value` with floats that are whole numbers as integers, so that 1e6 may fill an integer field."""
    if isinstance(value, Mapping):
        return {str(key): _integral(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_integral(each) for each in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _path_in(raw: Any, location: tuple) -> tuple:
    """The part of a pydantic location that exists in the data (the rest tells which member of a union was tried)."""
    path = []
    for part in location:
        in_list = isinstance(raw, list | tuple) and isinstance(part, int) and part < len(raw)
        if in_list or (isinstance(raw, Mapping) and part in raw):
            raw = raw[part]
            path.append(part)
    return tuple(path)


def _value_at(raw: Any, path: tuple) -> Any:
    return functools.reduce(lambda value, part: value[part], path, raw)


def _without(raw: dict[str, Any], path: tuple) -> dict[str, Any]:
    """`raw` without the value at `path`; the whole list where the path leads into one."""
    if not path:
        return {}
    rest = {key: value for key, value in raw.items() if key != path[0]}
    if len(path) > 1 and isinstance(raw.get(path[0]), Mapping):
        rest[path[0]] = _without(raw[path[0]], path[1:])
    return rest


def _message(cls: type, raw: Any, path: tuple, error: Mapping[str, Any]) -> str:
    """One line: path, value, rule, remedy."""
    name = ".".join(map(str, path)) or "configuration"
    owner = _dataclass_at(cls, path[:-1])
    if error["type"] == "unexpected_keyword_argument":
        known = [field.name for field in dataclasses.fields(owner)] if owner else []
        return f"{name}: " + unknown_name("key", path[-1], known)
    if error["type"] == "value_error":
        return f"{name}: {error['ctx']['error']}"
    shown = _shorten(repr(_value_at(raw, path)))
    if error["type"] == "literal_error":
        members = typing.get_args(_plain_type(_hint(owner, path[-1]))) if owner else ()
        choices = [each for each in members if isinstance(each, str)]
        if choices:
            return f"{name}: " + unknown_name("choice", _value_at(raw, path), choices)
    rule = error["msg"].replace("Input should be", "must be").replace("must be a valid", "must be a")
    rule = rule.replace("a integer", "an integer").replace("a array", "a list")
    if error["type"] == "dataclass_type":
        rule = "must be a mapping of fields"
    default = _default(owner, path[-1]) if owner and path else None
    return f"{name}={shown} {rule}" + (f" (default: {default})" if default else "")


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _plain_type(hint: Any) -> Any:
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    return hint


def _hint(cls: type | None, name: Any) -> Any:
    return typing.get_type_hints(cls, include_extras=True).get(name) if cls else None


def _dataclass_at(cls: type, path: tuple) -> type | None:
    """The dataclass that the mapping at `path` describes; None where it describes none, or one of several."""
    current: type | None = cls
    for part in path:
        hint = _plain_type(_hint(current, part))
        current = hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None
    return current


def _default(cls: type, name: Any) -> str | None:
    """How the default of a field is written, or None where it has none or is a section."""
    for field in dataclasses.fields(cls):
        if field.name == name and field.default is not dataclasses.MISSING:
            return json.dumps(field.default)
    return None
