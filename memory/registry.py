"""Memories by name: registration, generated configurations, construction, learning-rate groups."""

import dataclasses
import typing
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import jax
from flax import linen as nn
from jaxtyping import PyTree
from typing_extensions import Doc

from .blocks import ResidualBlock, Stack
from .errors import unknown_name

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
        ValueError: for a name that is taken, or a class without d_model, initial_carry, step or defaults.
    """

    def add(cls: type[nn.Module]) -> type[nn.Module]:
        fields = _configuration_fields(cls) if dataclasses.is_dataclass(cls) else {}
        missing = [each for each in ("initial_carry", "step") if not hasattr(cls, each)]
        if missing or "d_model" not in fields:
            raise ValueError(
                f"register({name!r}): {cls.__name__} lacks {', '.join(missing) or 'the field d_model'}; "
                "a memory is a linen module that follows the contract hippodrome.memory.Memory"
            )
        if _CLASSES.get(name, cls) is not cls:
            raise ValueError(f"register({name!r}): the name is taken by {_CLASSES[name].__qualname__}; choose another")
        for field, (_, default) in fields.items():
            if default is dataclasses.MISSING:
                raise ValueError(f"register({name!r}): field {field} of {cls.__name__} needs a default value")
        _CLASSES[name] = cls
        return cls

    return add


def list_memories() -> list[str]:
    """Names of all registered memories, sorted."""
    return sorted(_CLASSES)


def memory_config(kind: str) -> type[MemoryConfig]:
    """The configuration type of a memory: a frozen dataclass, first field `kind: Literal[kind]`, all with defaults.

    Its fields are those of the layer, of `ResidualBlock` and of `Stack`, with their annotations and help texts, and
    num_layers. Raises ValueError for an unknown kind.
    """
    cls = _layer_class(kind)
    if kind not in _CONFIGS:
        fields: dict[str, tuple[Any, Any]] = {
            "kind": (Literal[kind], kind),
            "num_layers": (Annotated[int, Doc("number of blocks in the stack")], 2),
            **_configuration_fields(cls),
        }
        for outer in (ResidualBlock, Stack):
            fields |= _configuration_fields(outer)
        fields["activation"] = (fields["activation"][0], getattr(cls, "default_activation", "none"))
        _CONFIGS[kind] = dataclasses.make_dataclass(
            f"{cls.__name__}Config",
            [(name, annotation, dataclasses.field(default=default)) for name, (annotation, default) in fields.items()],
            bases=(MemoryConfig,),
            frozen=True,
            namespace={"__doc__": (cls.__doc__ or cls.__name__).splitlines()[0], "__module__": __name__},
        )
    return _CONFIGS[kind]


def build_memory(config: MemoryConfig) -> Stack:
    """The memory a configuration describes: a `Stack` of `num_layers` residual blocks. Raises ValueError, see there."""
    num_layers = config.num_layers
    if isinstance(num_layers, bool) or not isinstance(num_layers, int) or num_layers < 1:
        raise ValueError(f"num_layers={num_layers!r} must be a positive integer")

    def pick(cls):
        return {name: getattr(config, name) for name in _configuration_fields(cls)}

    layer = _layer_class(config.kind)
    blocks = tuple(ResidualBlock(layer=layer(**pick(layer)), **pick(ResidualBlock)) for _ in range(num_layers))
    return Stack(layers=blocks, **pick(Stack))


def make_memory(kind: str, *, num_layers: int = 1, **options: Any) -> Stack:
    """A memory by name: `make_memory("s5", d_model=64, d_state=64, num_layers=2)`.

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


def _layer_class(kind: str) -> type[nn.Module]:
    if kind not in _CLASSES:
        raise ValueError(unknown_name("memory kind", kind, list_memories()))
    return _CLASSES[kind]


def _configuration_fields(cls: type[nn.Module]) -> dict[str, tuple[Any, Any]]:
    """Annotation and default of every dataclass field of a module but linen's own and the layers inside."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        field.name: (hints[field.name], field.default)
        for field in dataclasses.fields(cls)
        if field.name not in ("parent", "name", "layer", "layers")
    }
