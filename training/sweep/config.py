"""The configuration of a sweep: a base configuration, a search space, and how it is searched."""

import dataclasses
import itertools
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import pydantic
from pydantic import Field

from hippodrome.training.config import (
    config_differences,
    config_from,
    find_config,
    find_sweep,
    merged,
    read_yaml,
    write_yaml,
)
from hippodrome.training.config.checks import check_config
from hippodrome.training.config.schema import NonNegativeInt, PositiveInt, TrainConfig
from hippodrome.training.errors import ConfigError, unknown_name
from hippodrome.training.step import make_experiment, state_template

# How a field may vary, and what stands behind the word.
KINDS = {
    "grid": "a list, every value of which is tried with every one of the other grids",
    "choice": "a list to draw from",
    "uniform": "[low, high]",
    "log_uniform": "[low, high], both above 0",
    "integer": "[low, high], both included",
}
_RANGES = ("uniform", "log_uniform", "integer")


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A sweep, as configs/sweeps/NAME.yaml describes it.

    Attributes:
        config: the configuration every trial begins with: a YAML file, a run folder, or a shipped name.
        base: fields of it that are the same in every trial, such as `num_seeds`.
        space: dotted field -> one of {grid: [...]}, {choice: [...]}, {uniform: [low, high]}, {integer: [low, high]},
            {log_uniform: [low, high]}. The field `memory` takes kinds, or mappings with a kind.
        num_trials: trials; where there are grids, as many as they have points, times `samples_per_point`.
        samples_per_point: trials for each point of the grids, with other values of what is drawn.
        search: random draws, or Optuna's tree-structured Parzen estimator.
        scheduler: none; asha stops the worse trials early; pbt lets the worse ones go on from the better ones' states
            with changed values.
        seed: of the draws.
        grace_env_steps: environment steps before asha stops a trial; null: a ninth of them all.
        reduction_factor: of how many trials asha lets one go on.
        perturb_env_steps: environment steps between two exchanges of pbt; null: an eighth of them all.
        cores_per_trial: cores each trial computes with; as many trials run at once as there are cores for.
        gpus_per_trial: GPUs, or a fraction of one.
        max_failures: how often a trial that failed is tried again, from its newest checkpoint.
        address: of a Ray cluster to join, as `cluster.address`.
    """

    config: str = "quickstart"
    base: dict[str, Any] = dataclasses.field(default_factory=dict)
    space: dict[str, dict[str, Any]]
    num_trials: PositiveInt | None = None
    samples_per_point: PositiveInt = 1
    search: Literal["random", "optuna"] = "random"
    scheduler: Literal["none", "asha", "pbt"] = "none"
    seed: NonNegativeInt = 0
    grace_env_steps: PositiveInt | None = None
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    perturb_env_steps: PositiveInt | None = None
    cores_per_trial: PositiveInt = 1
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0.0
    max_failures: NonNegativeInt = 1
    address: str | None = None

    @property
    def grid_points(self) -> int:
        """Points of all grids together; 1 where there is none."""
        return math.prod(len(spec["grid"]) for spec in self.space.values() if "grid" in spec)

    @property
    def total_trials(self) -> int:
        """Trials in all."""
        return self.grid_points * self.samples_per_point if self.num_trials is None else self.num_trials


def load_sweep(source: str | Path, overrides: Sequence[str] = (), **changes: Any) -> SweepConfig:
    """The sweep of a YAML file, a sweep's folder or a name in configs/sweeps; every rule checked.

    Args:
        source: which.
        overrides: flags of `hippodrome train` that hold for every trial, over `base`.
        changes: fields of the sweep to replace.

    Raises:
        ConfigError: with every error of the file; then every one of the space.
    """
    raw = {**read_yaml(find_sweep(source)), **{name: value for name, value in changes.items() if value is not None}}
    sweep = _validate(raw, str(source))
    _check(sweep, overrides)
    return sweep


def save_sweep(sweep: SweepConfig, path: Path) -> None:
    """Write a sweep as YAML that `load_sweep` reads; whole or not at all. Raises OSError."""
    fields = {name: value for name, value in dataclasses.asdict(sweep).items() if value is not None}
    write_yaml(fields, path)


def trial_config(sweep: SweepConfig, values: Mapping[str, Any], overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a trial with these values of the space."""
    log = logging.getLogger("hippodrome.config")
    level = log.level
    log.setLevel(logging.ERROR)  # which fields a kind of memory does not have would be told for every trial
    try:
        raw = merged(read_yaml(find_config(sweep.config)), sweep.base)
        return config_from(raw, [*flags(values), *overrides], where=f"{sweep.config} with the base of the sweep")
    finally:
        log.setLevel(level)


def flags(values: Mapping[str, Any]) -> list[str]:
    """Fields as flags of `hippodrome train`."""
    words: list[str] = []
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        if name in ("memory", "agent"):
            fields = {"kind": value} if isinstance(value, str) else value
            words += flags({f"{name}.{key}": each for key, each in fields.items()})
        elif isinstance(value, bool):
            head, _, last = flag.rpartition(".")
            words.append(flag if value else f"{head}.no-{last}" if head else f"--no-{last.removeprefix('--')}")
        elif isinstance(value, list | tuple):
            words += [flag, *(json.dumps(each) if isinstance(each, Mapping) else str(each) for each in value)]
        elif isinstance(value, Mapping):
            words += [flag, *(f"{key}={each}" for key, each in value.items())]
        else:
            words += [flag, str(value)]
    return words


def _validate(raw: dict[str, Any], where: str) -> SweepConfig:
    known = {field.name for field in dataclasses.fields(SweepConfig)}
    errors = [unknown_name("key", name, known) for name in raw if name not in known]
    fields = {name: value for name, value in raw.items() if name in known}
    try:
        sweep = pydantic.TypeAdapter(SweepConfig).validate_json(json.dumps(fields), strict=True)
    except pydantic.ValidationError as error:
        for each in error.errors():
            path = ".".join(str(part) for part in each["loc"])
            rule = each["msg"].replace("Input should be", "must be")
            value = "" if each["type"].startswith("missing") else f"={each['input']!r}"
            errors.append(f"{path}{value}: {rule}")
        raise ConfigError(errors, where) from error
    if errors:
        raise ConfigError(errors, where)
    return sweep


def _check(sweep: SweepConfig, overrides: Sequence[str]) -> None:
    errors = [message for name, spec in sweep.space.items() for message in _spec_errors(name, spec)]
    if not sweep.space:
        errors.append("space must name at least one field, such as agent.learning_rate: {log_uniform: [1e-5, 1e-3]}")
    grids = [name for name, spec in sweep.space.items() if "grid" in spec]
    if grids and sweep.search == "optuna":
        errors.append(f"search=optuna draws every value; {', '.join(grids)} must be a choice, not a grid")
    if grids and sweep.num_trials is not None:
        errors.append(
            f"num_trials={sweep.num_trials} must be left out where there are grids ({', '.join(grids)}): they have "
            f"{sweep.grid_points} points; samples_per_point multiplies them"
        )
    if not grids and sweep.num_trials is None:
        errors.append("num_trials is missing: set num_trials: N; only grids tell by themselves how many there are")
    if sweep.scheduler == "pbt" and sweep.search == "optuna":
        errors.append("scheduler=pbt changes values itself; search must be random")
    errors += _given_twice(sweep, overrides)
    try:
        total = trial_config(sweep, {}, overrides).total_env_steps  # what is wrong before any value of the space
    except ConfigError as error:
        raise ConfigError([*error.errors, *errors]) from error
    if sweep.scheduler == "asha" and (sweep.grace_env_steps or 0) > total:
        errors.append(
            f"grace_env_steps={sweep.grace_env_steps} must be at most total_env_steps={total}, or asha stops nothing"
        )
    if errors:
        raise ConfigError(errors)
    configs = _corners(sweep, overrides)
    if sweep.scheduler == "pbt":
        _require_same_shapes(configs)


def _spec_errors(name: str, spec: Mapping[str, Any]) -> list[str]:
    if len(spec) != 1 or next(iter(spec)) not in KINDS:
        known = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
        return [f"space.{name}={dict(spec)!r} must be a mapping of one of these words: {known}"]
    kind, value = next(iter(spec.items()))
    if not isinstance(value, list) or not value:
        return [f"space.{name}.{kind}={value!r} must be {KINDS[kind]}"]
    if kind not in _RANGES:
        return []
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in value)
    if len(value) != 2 or not numbers or value[0] >= value[1] or (kind == "log_uniform" and value[0] <= 0):
        return [f"space.{name}.{kind}={value!r} must be {KINDS[kind]}, low below high"]
    if kind == "integer" and not all(isinstance(each, int) for each in value):
        return [f"space.{name}.integer={value!r} must be two integers"]
    return []


def _given_twice(sweep: SweepConfig, overrides: Sequence[str]) -> list[str]:
    """Messages for fields of the space that another one of it, or a flag, would decide."""
    given = {word.removeprefix("--").partition("=")[0].replace("-", "_") for word in overrides if word.startswith("--")}
    both = [f"space.{name} and space.{name}.kind name the same field; leave one out" for name in ("memory", "agent")
            if {name, f"{name}.kind"} <= set(sweep.space)]  # fmt: skip
    return both + [
        f"space.{name} would do nothing, as the flag --{name.replace('_', '-')} holds for every trial; leave one out"
        for name in sweep.space
        if name in given
    ]


def _tried(spec: Mapping[str, Any]) -> list[Any]:
    """Values of a field that stand for all it may be given: of a range its ends, and one between that is not whole."""
    kind, value = next(iter(spec.items()))
    if kind not in ("uniform", "log_uniform"):
        return value
    low, high = value
    return [low, high, low + (high - low) / math.pi]


def _corners(sweep: SweepConfig, overrides: Sequence[str]) -> list[TrainConfig]:
    """The configurations with each value of each field, for every kind of memory there is; all of them checked."""
    values = {name: _tried(spec) for name, spec in sweep.space.items()}
    kinds = [name for name in ("memory", "memory.kind") if name in values]
    firsts = {name: each[0] for name, each in values.items()}
    errors: dict[str, str] = {}
    configs: list[TrainConfig] = []
    memories = [
        dict(zip(kinds, chosen, strict=True)) for chosen in itertools.product(*(values[name] for name in kinds))
    ]
    others: list[tuple[str | None, Any]]
    others = [(name, value) for name, each in values.items() if name not in kinds for value in each]
    for memory, (name, value) in itertools.product(memories, others or [(None, None)]):
        changed = {**firsts, **memory, **({} if name is None else {name: value})}
        try:
            config = trial_config(sweep, changed, overrides)
            check_config(config)
            configs.append(config)
        except ConfigError as error:
            where = ", ".join(f"{key}={each}" for key, each in {**memory, name: value}.items() if key is not None)
            hint = ""
            if name in sweep.space and "whole number" in str(error) and "integer" not in sweep.space[name]:
                hint = "; `integer: [low, high]` draws whole numbers"
            for each in error.errors:
                errors.setdefault(each + hint, where)  # each once, with the first values that have it
    if errors:
        raise ConfigError([f"space, with {where}: {each}" for each, where in errors.items()])
    return configs


def _require_same_shapes(configs: list[TrainConfig]) -> None:
    """A trial of pbt goes on from another one's state, so all must have arrays of the same shapes."""

    def shapes(config: TrainConfig) -> Any:
        template = state_template(make_experiment(config), config)
        return jax.tree.structure(template), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(template)]

    first, expected, fixed = configs[0], shapes(configs[0]), []
    for config in configs[1:]:
        lines = config_differences(config, first, names=("in one", "in another"))
        fixed += [line for line in lines if not line.startswith("agent.") or shapes(config) != expected]
    if fixed:
        listing = "\n".join(f"  - {line}" for line in dict.fromkeys(fixed))
        raise ConfigError(
            "scheduler=pbt hands states on between trials, so the space may hold fields of the agent alone, and those "
            f"that shape no array:\n{listing}"
        )
