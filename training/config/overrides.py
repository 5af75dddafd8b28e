"""Command-line overrides: `--memory.kind gru --agent.gamma 0.99 --env.params max_steps_in_episode=100`."""

import contextlib
import dataclasses
import io
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import tyro

from hippodrome.training.errors import ConfigError, nearest_name, unknown_name

from .schema import TrainConfig
from .validation import DEFAULT_KINDS, kind_of, kind_type, known_kinds


@dataclasses.dataclass(frozen=True)
class Early:
    """What must be known before the rest can be parsed.

    Attributes:
        kinds: `{"memory": kind, "agent": kind}`, only those given.
        imports: values of `--import`.
        rest: the other arguments.
    """

    kinds: dict[str, str]
    imports: tuple[str, ...]
    rest: list[str]


def take_early(arguments: Sequence[str]) -> Early:
    """Split off `--memory.kind`, `--agent.kind` and `--import`, as `--name value` or `--name=value`.

    Raises:
        ConfigError: for one of them without a value.
    """
    kinds: dict[str, str] = {}
    imports: list[str] = []
    rest: list[str] = []
    flags = {f"--{section}.kind": section for section in DEFAULT_KINDS}
    queue = list(arguments)
    while queue:
        name, equals, value = queue.pop(0).partition("=")
        if name not in flags and name != "--import":
            rest.append(name + equals + value)
            continue
        values = [value] if equals else _take_values(queue, many=name == "--import")
        if not values:
            raise ConfigError(f"{name} needs a value, e.g. {name} {'my_package' if name == '--import' else 'gru'}")
        if name == "--import":
            imports += values
        else:
            kinds[flags[name]] = values[0]
    return Early(kinds, tuple(imports), rest)


def _take_values(queue: list[str], *, many: bool) -> list[str]:
    values: list[str] = []
    while queue and not queue[0].startswith("-") and (many or not values):
        values.append(queue.pop(0))
    return values


def switch_kinds(raw: Mapping[str, Any], kinds: Mapping[str, str], say: Callable[[str], None]) -> dict[str, Any]:
    """`raw` with other kinds of memory or agent: fields the new kind has too are kept, the others dropped.

    Args:
        raw: a configuration as read from YAML.
        kinds: `{"memory": kind, "agent": kind}`, only those to switch.
        say: called with a line for each section that loses fields.

    Raises:
        ConfigError: for an unknown kind.
    """
    raw = dict(raw)
    unknown = [
        unknown_name(f"--{section}.kind", kind, known_kinds(section))
        for section, kind in kinds.items()
        if kind not in known_kinds(section)
    ]
    if unknown:
        raise ConfigError(unknown)
    for section, kind in kinds.items():
        old_kind, old = kind_of(raw, section), raw.get(section)
        values = dict(old) if isinstance(old, Mapping) else {}
        if kind != old_kind and old_kind in known_kinds(section):
            old_fields, new_fields = (_field_names(kind_type(section, each)) for each in (old_kind, kind))
            # A key that neither kind has is a mistake to report, not a field to drop.
            dropped = [name for name in values if name in old_fields and name not in new_fields]
            if dropped:
                listing = ", ".join(f"{name}={values.pop(name)!r}" for name in dropped)
                say(f"{section}.kind {old_kind} -> {kind}: dropped {listing}, which {kind} does not have")
        raw[section] = {**values, "kind": kind}
    return raw


def switch_env(raw: Mapping[str, Any], arguments: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    """`raw` without the kwargs and params of its environment where `--env.id` names another one.

    Args:
        raw: a configuration as read from YAML.
        arguments: flags.
        say: called with a line if something is dropped.
    """
    queue, chosen = list(arguments), None
    while queue:
        name, equals, value = queue.pop(0).partition("=")
        if name == "--env.id":
            chosen = value if equals else next(iter(_take_values(queue, many=False)), None)
    env = raw.get("env")
    if chosen is None or not isinstance(env, Mapping) or env.get("id") == chosen:
        return dict(raw)
    dropped = [name for name in ("kwargs", "params") if env.get(name)]
    if dropped:
        listing = ", ".join(f"env.{name}={env[name]!r}" for name in dropped)
        say(f"env.id {env.get('id')} -> {chosen}: dropped {listing}, which were of the former")
    return {**raw, "env": {name: value for name, value in env.items() if name not in dropped}}


def parse_overrides(
    default: TrainConfig, arguments: Sequence[str], *, read_word: Callable[[str], Any], prog: str, description: str
) -> TrainConfig:
    """`default` with the fields that `arguments` set; `--help` prints every field and exits.

    Args:
        default: a configuration of a type made by `validation.config_type`.
        arguments: flags, without those that `take_early` takes.
        read_word: the value of a word in NAME=VALUE.
        prog: the command, for help and messages.
        description: the head of the help.

    Raises:
        ConfigError: for unknown flags (all of them, with the nearest known) and values of a wrong type.
    """
    if not {"-h", "--help"} & set(arguments):
        _check_flags(type(default), arguments)

    def parse(words: Sequence[str]) -> TrainConfig:
        stderr = io.StringIO()
        try:
            with contextlib.redirect_stderr(stderr):
                return tyro.cli(
                    type(default),
                    default=default,
                    args=list(words),
                    prog=prog,
                    description=description,
                    config=(tyro.conf.AvoidSubcommands,),
                    registry=_registry(default, read_word),
                )
        except ValueError as error:
            raise ConfigError(str(error), "command line") from error
        except SystemExit as stop:
            if stop.code == 0:
                raise
            raise ConfigError(_first_paragraph(stderr.getvalue()), "command line") from None

    try:
        return parse(arguments)
    except ConfigError as error:
        # tyro stops at the first mistake; every flag by itself shows the others.
        single = [_errors_of(parse, words) for words in _flag_groups(arguments)]
        raise ConfigError([each for errors in single for each in errors] or error.errors, "command line") from None


def _flag_groups(arguments: Sequence[str]) -> list[list[str]]:
    """Each flag with its values; words before the first flag are a group too."""
    groups: list[list[str]] = []
    for word in arguments:
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    return groups


def _errors_of(parse: Callable[[Sequence[str]], TrainConfig], words: list[str]) -> list[str]:
    try:
        parse(words)
    except ConfigError as error:
        return error.errors
    return []


def _field_names(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


def _flag_names(cls: type, prefix: str = "") -> set[str]:
    """Dotted paths of all fields, and `no_` forms of booleans as tyro spells them."""
    names = set()
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = "import" if field.name == "import_modules" else field.name
        if dataclasses.is_dataclass(hints[field.name]):
            names |= _flag_names(hints[field.name], f"{prefix}{name}.")
        else:
            names.add(prefix + name)
            if hints[field.name] is bool:
                names.add(f"{prefix}no_{name}")
    return names


def _check_flags(cls: type, arguments: Sequence[str]) -> None:
    known = _flag_names(cls)
    errors = []
    for argument in arguments:
        if not argument.startswith("--"):
            continue
        name = argument[2:].partition("=")[0].replace("-", "_")
        # A field that is a list of sections has flags below its own name.
        if not any(name == each or name.startswith(f"{each}.") for each in known):
            near = nearest_name(name, known)
            errors.append(f"option '--{name}' is unknown; " + (f"did you mean '--{near}'?" if near else "see --help"))
    if errors:
        raise ConfigError(errors, "command line")


def _first_paragraph(box: str) -> str:
    """The message inside the frame that tyro draws, without the frame and what follows the first rule."""
    lines = [line.strip("│ \n") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    head = []
    for line in lines:
        if set(line) <= {"─"}:
            break
        head.append(line)
    return (" ".join(head) or box.strip()).removeprefix("Error parsing ")


def _registry(default: TrainConfig, read_word: Callable[[str], Any]) -> tyro.constructors.ConstructorRegistry:
    """How the command line reads integers (1e6 too), mappings (NAME=VALUE) and kinds (help lists all of them)."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    from hippodrome.memory.registry import LayerList

    registry = ConstructorRegistry()
    kinds: dict[Any, list[str]] = {
        Literal[getattr(default, section).kind]: known_kinds(section) for section in DEFAULT_KINDS
    }

    @registry.primitive_rule
    def integer(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if info.type is not int:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="INT",
            instance_from_str=lambda words: _whole_number(words[0]),
            is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
            str_from_instance=lambda value: [str(value)],
        )

    @registry.primitive_rule
    def mapping(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if info.type_origin is not dict:
            return None
        return PrimitiveConstructorSpec(
            nargs="*",
            metavar="[NAME=VALUE ...]",
            instance_from_str=lambda words: _mapping(words, read_word),
            is_instance=lambda value: isinstance(value, dict),
            str_from_instance=lambda value: [f"{name}={each}" for name, each in value.items()],
        )

    @registry.primitive_rule
    def layers(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        # By its arguments: where the default has two entries tyro hands on typing.Tuple, which is not equal to tuple.
        if info.type_origin is not tuple or typing.get_args(info.type) != typing.get_args(LayerList):
            return None
        return PrimitiveConstructorSpec(
            nargs="*",
            metavar="KIND|{kind: KIND, FIELD: VALUE} ...",
            instance_from_str=lambda words: tuple(read_word(word) for word in words),
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda value: [str(each) for each in value],
        )

    @registry.primitive_rule
    def kind(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if info.type not in kinds:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="{" + ",".join(kinds[info.type]) + "}",
            instance_from_str=lambda words: words[0],
            is_instance=lambda value: isinstance(value, str),
            str_from_instance=lambda value: [value],
        )

    return registry


def _whole_number(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        number = float(word)
        if not number.is_integer():
            raise ValueError(f"{word} must be a whole number") from None
        return int(number)


def _mapping(words: list[str], read_word: Callable[[str], Any]) -> dict[str, Any]:
    pairs = [word.partition("=") for word in words]
    wrong = [name for name, equals, _ in pairs if not equals]
    if wrong:
        raise ValueError(f"{wrong[0]!r} must read NAME=VALUE")
    return {name: read_word(value) for name, _, value in pairs}
