"""Memories by name: registration, generated configurations, construction, learning-rate groups."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import jax
from flax import linen as nn
from jaxtyping import PyTree
from typing_extensions import Doc

from .blocks import Parallel, ResidualBlock, Stack
from .errors import unknown_name

# Kinds made of other kinds: `layers` is a list of names, or of mappings with a `kind` and fields of that kind.
LayerSpec = str | dict[str, Any]
LayerList = tuple[LayerSpec, ...]
_COMPOSITIONS: dict[str, tuple[str, LayerList]] = {
    "hybrid": ("Different layers one after the other, each in a residual block.", ("mamba", "mlp", "attention", "mlp")),
    "parallel": ("Different layers side by side in one residual block.", ("attention", "mamba")),
}

_CLASSES: dict[str, type[nn.Module]] = {}
_CONFIGS: dict[str, type["MemoryConfig"]] = {}


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """Base of the generated configurations; `memory_config(kind)` makes them, `build_memory` consumes them.

    A configuration checks itself: making one with values that cannot be built raises the ValueError of the module.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # a misspelt key is an error, not ignored

    if typing.TYPE_CHECKING:  # the fields that every generated class has
        kind: str = ""
        num_layers: int = 2

    def __post_init__(self):
        build_memory(self)

    def __reduce__(self):
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "kind"}
        return _restore, (self.kind, values)


def _restore(kind: str, values: dict[str, Any]) -> MemoryConfig:
    """Unpickle: the generated class is found by its kind, so every process has the same one."""
    return memory_config(kind)(**values)


def register(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator that makes a memory available under `name` to `make_memory`, configurations and command line.

    The class is a linen module that follows the `Memory` contract; its dataclass fields are its configuration: give
    each a type, a default and, as `Annotated[type, Doc("...")]`, a help text.

    Raises:
        ValueError: for a name that is taken, a class without d_model, initial_carry, step or defaults, or a field that
            hides a method of linen's Module.
    """

    if not isinstance(name, str) or not name:
        raise ValueError(f"register({name!r}): the name must be a string that is not empty")

    def add(cls: type[nn.Module]) -> type[nn.Module]:
        fields = _configuration_fields(cls) if dataclasses.is_dataclass(cls) else {}
        missing = [each for each in ("initial_carry", "step") if not hasattr(cls, each)]
        if missing or "d_model" not in fields:
            raise ValueError(
                f"register({name!r}): {cls.__name__} lacks {', '.join(missing) or 'the field d_model'}; "
                "a memory is a linen module that follows the contract hippodrome.memory.Memory"
            )
        if _CLASSES.get(name, cls) is not cls or name in _COMPOSITIONS:
            owner = "hippodrome" if name in _COMPOSITIONS else _CLASSES[name].__qualname__
            raise ValueError(f"register({name!r}): the name is taken by {owner}; choose another")
        for field, (_, default) in fields.items():
            if hasattr(nn.Module, field):
                raise ValueError(f"register({name!r}): field {field} of {cls.__name__} hides linen's own; rename it")
            if default is dataclasses.MISSING:
                raise ValueError(f"register({name!r}): field {field} of {cls.__name__} needs a default value")
        _CLASSES[name] = cls
        return cls

    return add


def list_memories() -> list[str]:
    """Names of all registered memories, sorted."""
    return sorted([*_CLASSES, *_COMPOSITIONS])


def memory_config(kind: str) -> type[MemoryConfig]:
    """The configuration type of a memory: a frozen dataclass, first field `kind: Literal[kind]`, all with defaults.

    Its fields are those of the layer, of `ResidualBlock` and of `Stack`, with their annotations and help texts, and
    num_layers. Those of "hybrid" and "parallel" have `layers` and d_model instead of the fields of a layer.
    Raises ValueError for an unknown kind.
    """
    if kind not in list_memories():
        raise ValueError(unknown_name("memory kind", kind, list_memories()))
    if kind not in _CONFIGS:
        _CONFIGS[kind] = _make_config(kind)
    return _CONFIGS[kind]


def _make_config(kind: str) -> type[MemoryConfig]:
    block, stack = _configuration_fields(ResidualBlock), _configuration_fields(Stack)
    if kind in _COMPOSITIONS:
        name, (doc, layers) = kind.title(), _COMPOSITIONS[kind]
        own: dict[str, tuple[Any, Any]] = {
            "layers": (
                Annotated[LayerList, Doc("kinds, or mappings of a kind and its fields")],
                layers,
            ),
            "d_model": (Annotated[int, Doc("width of all layers")], 64),
        }
        # Each layer has the activation of its kind; features are mixed by layers of their own.
        del block["activation"]
        block["glu"] = (block["glu"][0], "none")
        num_layers = (Annotated[int, Doc("times the list is repeated")], 1)
    else:
        cls = _CLASSES[kind]
        name, doc, own = cls.__name__, (cls.__doc__ or cls.__name__).splitlines()[0], _configuration_fields(cls)
        block["activation"] = (block["activation"][0], getattr(cls, "default_activation", "none"))
        for field, default in getattr(cls, "default_block", {}).items():
            where = block if field in block else stack
            where[field] = (where[field][0], default)
        num_layers = (Annotated[int, Doc("number of blocks in the stack")], 2)
    fields = {"kind": (Literal[kind], kind), "num_layers": num_layers, **own, **block, **stack}
    return dataclasses.make_dataclass(
        f"{name}Config",
        [(field, annotation, dataclasses.field(default=default)) for field, (annotation, default) in fields.items()],
        bases=(MemoryConfig,),
        frozen=True,
        namespace={"__doc__": doc, "__module__": __name__},
    )


def build_memory(config: MemoryConfig) -> Stack:
    """The memory a configuration describes: a `Stack` of residual blocks. Raises ValueError, see there."""
    num_layers = config.num_layers
    if isinstance(num_layers, bool) or not isinstance(num_layers, int) or num_layers < 1:
        raise ValueError(f"num_layers={num_layers!r} must be a positive integer")
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    block_fields = {name: values[name] for name in _configuration_fields(ResidualBlock) if name in values}
    if config.kind == "hybrid":
        specs: list[LayerSpec] = list(_layer_list(config.kind, values["layers"]))
    elif config.kind == "parallel":
        specs = [{"kind": "parallel", "layers": values["layers"]}]
    else:
        specs = [{name: values[name] for name in ("kind", *_configuration_fields(_CLASSES[config.kind]))}]
    composed = config.kind in _COMPOSITIONS
    blocks = tuple(
        _build_block(f"layers[{index}]" if composed else "", spec, values["d_model"], block_fields)
        for _ in range(num_layers)
        for index, spec in enumerate(specs)
    )
    return Stack(layers=blocks, **{name: values[name] for name in _configuration_fields(Stack)})


def _build_block(where: str, spec: LayerSpec, d_model: int, block_fields: dict[str, Any]) -> ResidualBlock:
    """The residual block of one entry; an entry may set the fields of its block too."""
    own = _entry(where, spec)
    block = {name: own.pop(name, None) for name in _configuration_fields(ResidualBlock) if name in own}
    layer = _build_layer(where, own, d_model)
    activation = {"activation": getattr(type(layer), "default_activation", "none")}
    try:
        return ResidualBlock(layer=layer, **{**activation, **block_fields, **block})
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if block else str(error)) from error


def _build_layer(where: str, spec: LayerSpec, d_model: int) -> nn.Module:
    """The layer of one entry: a name, or a mapping with a kind and fields."""
    options = _entry(where, spec)
    if "kind" not in options:
        raise ValueError(f"{where}: {spec!r} has no kind; write {{kind: attention, window: 16}}")
    kind = options.pop("kind")
    known = [*_CLASSES, "parallel"]
    if kind == "hybrid":
        raise ValueError(f"{where}: kind='hybrid' cannot stand in a list; put its layers there instead")
    if isinstance(kind, str) and kind.startswith("["):
        raise ValueError(f"{where}: {kind!r} is one word; on the command line separate the layers by spaces: mamba mlp")
    if kind not in known:
        raise ValueError(unknown_name(f"{where}: kind", kind, sorted(known)))
    fields = ["layers", "d_model"] if kind == "parallel" else list(_configuration_fields(_CLASSES[kind]))
    for option in options:
        if option not in fields:
            raise ValueError(unknown_name(f"{where}: option of {kind}", option, fields))
    if options.setdefault("d_model", d_model) != d_model:
        raise ValueError(
            f"{where}: d_model={options['d_model']} differs from the memory's d_model={d_model}, which all its layers "
            "share; leave it out"
        )
    if kind != "parallel":
        try:
            return _CLASSES[kind](**options)
        except ValueError as error:
            # Of a memory of one kind the place says nothing.
            raise ValueError(f"{where}: {error}" if where else str(error)) from error
    layers = _layer_list(f"{where}: parallel" if where else kind, options.get("layers", _COMPOSITIONS["parallel"][1]))
    return Parallel(
        tuple(_build_layer(f"{where}.layers[{i}]", each, options["d_model"]) for i, each in enumerate(layers))
    )


def _entry(where: str, spec: Any) -> dict[str, Any]:
    """An entry of a list as a mapping."""
    if isinstance(spec, Mapping):
        return dict(spec)
    if not isinstance(spec, str):
        raise ValueError(f"{where}: {spec!r} must be a kind, or a mapping of a kind and its fields")
    return {"kind": spec}


def _layer_list(kind: str, layers: Any) -> LayerList:
    if not isinstance(layers, list | tuple) or not layers:
        raise ValueError(f"{kind}: layers={layers!r} must be a list of kinds, at least one: [mamba, attention]")
    return tuple(layers)


def make_memory(kind: str, *, num_layers: int = 1, **options: Any) -> Stack:
    """A memory by name: `make_memory("s5", d_model=64, d_state=64, num_layers=2)`.

    Compositions by list: `make_memory("hybrid", layers=["mamba", {"kind": "attention", "window": 16}], d_model=64)`.
    Options are the fields of `memory_config(kind)`: d_model and the other fields of the layer, norm, activation and
    glu of the block, projection and final_norm of the stack. One layer unless told otherwise.

    Raises:
        ValueError: for an unknown kind or option (with the nearest known name) and for values that break a rule.
    """
    config = memory_config(kind)
    known = [field.name for field in dataclasses.fields(config) if field.name != "kind"]
    for option in options:
        if option not in known:
            raise ValueError(unknown_name(f"make_memory({kind!r}): option", option, known))
    return build_memory(config(num_layers=num_layers, **options))


def parameter_labels(params: PyTree) -> PyTree:
    """Label every parameter "ssm" or "regular", for `optax.multi_transform` and weight-decay masks.

    "ssm": the names that registered memories declare in `ssm_parameters` (for S5: Lambda, B, log dt and the initial
    state), which take a smaller learning rate and no weight decay. `params` may be the parameters of a whole agent.
    Source: Smith et al. 2023 (S5), appendix G.2.
    """
    names = {name for cls in _CLASSES.values() for name in getattr(cls, "ssm_parameters", ())}

    def label(path, _):
        return "ssm" if getattr(path[-1], "key", None) in names else "regular"

    return jax.tree_util.tree_map_with_path(label, params)


def _configuration_fields(cls: type[nn.Module]) -> dict[str, tuple[Any, Any]]:
    """Annotation and default of every dataclass field of a module but linen's own and the layers inside."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        field.name: (hints[field.name], field.default)
        for field in dataclasses.fields(cls)
        if field.name not in ("parent", "name", "layer", "layers")
    }
