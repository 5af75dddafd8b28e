"""A look inside a run's memory, before and after training: eigenvalues, time constants, how far back it looks, size.

Legend: T steps, B environments, L largest lag.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Key
from rich.console import Group
from rich.table import Table

from hippodrome.agents.ppo import PPO
from hippodrome.envs import Timestep, environment_keys
from hippodrome.memory.horizon import lag_at_mass, memory_horizon
from hippodrome.memory.spectrum import CONSTANT, carry_size, has_decay, layer_decays, memory_layers, missing_decay
from hippodrome.training.checkpoint.files import write_json
from hippodrome.training.config import TrainConfig
from hippodrome.training.errors import ConfigError, RunFolderError
from hippodrome.training.evaluation.evaluate import (
    CheckpointChoice,
    check_numbers,
    load_policy,
    open_run,
    params_of_seed,
)
from hippodrome.training.host import running
from hippodrome.training.log.events import EventWriter
from hippodrome.training.rollout import collect
from hippodrome.training.step import Experiment, initial_state, make_environment

from .picture import draw_inspection, write_picture

INSPECTION_FILE = "inspection.json"
PICTURE_FILE = "inspection.png"
MASSES = (0.5, 0.9, 0.99)
_RANGE = ("min", "median", "max")
# The branch of the network, an attribute and a name of its parameters, that holds a memory.
_BRANCHES = {"shared": "actor", "actor": "actor", "critic": "critic"}
# Of the input-dependent decays, which are as many as all states of all steps together.
_OBSERVED_ENVS = 4
_SAMPLED_EIGENVALUES = 1024


def inspect_run(
    run: str | Path,
    *,
    lags: int = 128,
    seed: int = 0,
    step: CheckpointChoice = "last",
    train_seed: int | Literal["best"] = "best",
    num_envs: int = 16,
    num_probes: int = 16,
) -> dict[str, Any]:
    """Looks inside the memory of a run; writes inspection.json, inspection.png and a TensorBoard image to its folder.

    The trained policy acts, by sampling, for 2 * lags steps of fresh environments. On the observations it meets, both
    the parameters that the run began with and the trained ones are looked at, each through its own encoder: what
    differs is what was learnt, not where it was looked at. See `memory_horizon` for the gradient by lag, which never
    crosses an episode start, and `layer_decays` for eigenvalues.

    Args:
        run: the folder.
        lags: L, the largest lag.
        seed: of the environments, the action noise and the probes.
        step: which checkpoint is "after", see `load_policy`.
        train_seed: which of the vmapped seeds, counted from 0, see `load_policy`.
        num_envs: B.
        num_probes: vector-Jacobian products, each of a random step in every environment.

    Returns:
        What inspection.json holds: see docs/training.md.

    Raises:
        ConfigError: if the folder is no run, an argument breaks its rule, or the agent's memory cannot be found.
        CheckpointError: if there is no such checkpoint.
        RunFolderError: if the folder cannot be written.
    """
    check_numbers(seed, lags=lags, num_envs=num_envs, num_probes=num_probes)
    config, experiment, trained, index, about = open_run(run, train_seed, step)
    memories = find_memories(experiment.agent)
    parameters = {"before": initial_params(config, experiment, index), "after": trained}

    play_key, probe_key = jax.random.split(jax.random.key(seed))
    timesteps = _play(experiment, config, trained, play_key, num_steps=2 * lags, num_envs=num_envs)
    look = jax.jit(partial(_look, experiment.agent, lags=lags, num_probes=num_probes))
    seen = {when: jax.device_get(look(params, timesteps, probe_key)) for when, params in parameters.items()}

    reset = np.asarray(timesteps.reset)
    carry = jax.eval_shape(lambda: experiment.agent.initial_carry(1))
    result = {
        **about,
        "inspection_seed": seed,
        "init_from": config.init_from,
        "lags": lags,
        "carry": _size(sum(leaf.size for leaf in jax.tree.leaves(carry)), _bytes(carry)),
        "layers": [
            _layer_result(label, name, layer, {when: seen[when][label][0].get(name) for when in seen}, reset)
            for label, branch in memories.items()
            for name, layer in memory_layers(branch.memory).items()
        ],
        "horizons": {label: _horizon_result({when: seen[when][label][1:] for when in seen}) for label in memories},
    }
    _save(Path(run), result, tensorboard=config.log.tensorboard)
    return result


def initial_params(config: TrainConfig, experiment: Experiment, index: int = 0) -> Any:
    """The parameters that a run of this configuration begins with, bit for bit, of its vmapped seed `index`.

    With `init_from` those of the run it names, as they are now: of its newest checkpoint.

    Raises:
        ConfigError: if the run that `init_from` names is not there.
    """
    if config.init_from is not None:
        if not (Path(config.init_from) / "config.yaml").is_file():
            raise ConfigError(
                f"init_from={config.init_from}: the run that this one began with is not there (no config.yaml in it); "
                "start from the folder that the path is relative to, or put the run back"
            )
        return load_policy(config.init_from).params
    # The whole state, in one program, as training makes it: parts of it compiled alone may round differently.
    with running(experiment.envs):
        state = jax.jit(lambda: initial_state(experiment, config))()
    return params_of_seed(state.learner.params, config, index)


def find_memories(agent: Any) -> dict[str, nn.Module]:
    """The branches of an agent that hold a memory each: "shared", or "actor" and "critic".

    Raises:
        ConfigError: for an agent whose memories are not known to be there.
    """
    if not isinstance(agent, PPO):
        raise ConfigError(f"the memory of a {type(agent).__name__} cannot be inspected; only that of ppo, so far")
    if agent.network.critic is None:
        return {"shared": agent.network.actor}
    return {"actor": agent.network.actor, "critic": agent.network.critic}


def inspection_table(result: dict[str, Any]) -> Group:
    """The result as tables for a terminal."""
    title = f"{result['env']}, {result['memory']}: update {result['update']}, train seed {result['train_seed']}"
    layers = Table(title=title, caption="time constants in steps: -1 / log|lambda|; inf: some |lambda| >= 1")
    for column in ("layer", "carry", "bytes", "eigenvalues"):
        layers.add_column(column, justify="left" if column in ("layer", "eigenvalues") else "right")
    for when in ("before", "after"):
        for column in ("min", "median", "max"):
            layers.add_column(f"{when} {column}" if column == "min" else column, justify="right")
    several = len(result["horizons"]) > 1
    notes = []
    for layer in result["layers"]:
        name = f"{layer['memory']}/{layer['name']}" if several else layer["name"]
        constants = [_number(layer[when], column) for when in ("before", "after") for column in _RANGE]
        size = layer["carry"]
        layers.add_row(f"{name} {layer['kind']}", str(size["values"]), str(size["bytes"]), layer["source"], *constants)
        if layer["note"]:
            notes.append(f"{name}: {layer['kind']} {layer['note']}")
    layers.add_row("in all", str(result["carry"]["values"]), str(result["carry"]["bytes"]))

    horizons = Table(title="memory horizon: lag up to which lies a share of the gradient of the output to the inputs")
    horizons.add_column("memory")
    for when in ("before", "after"):
        for mass in MASSES:
            horizons.add_column(f"{when} {mass:.0%}", justify="right")
    for label, horizon in result["horizons"].items():
        lags = [horizon[when]["lag_at_mass"][f"{mass:g}"] for when in ("before", "after") for mass in MASSES]
        horizons.add_row(label, *("-" if lag is None else str(lag) for lag in lags))
    return Group(layers, *notes, horizons)


def _play(
    experiment: Experiment, config: TrainConfig, params: Any, key: Key[Array, ""], *, num_steps: int, num_envs: int
) -> Timestep:
    """What a policy sees in so many steps of fresh environments, leaves `[T, B, ...]`."""
    envs = make_environment(config.env, num_steps=num_steps)
    agent = experiment.agent

    @jax.jit
    def play(params: Any, key: Key[Array, ""]) -> Timestep:
        env_key, act_key = jax.random.split(key)
        state, carry = envs.reset(environment_keys(env_key, 0, num_envs)), agent.initial_carry(num_envs)
        # V beyond the end of an episode is not needed.
        run = partial(collect, num_steps=num_steps, bootstrap_truncation=False)
        return run(agent, envs, params, state, carry, act_key)[2].timestep

    with running(envs):
        return jax.block_until_ready(play(params, key))


def _look(
    agent: Any, params: Any, timesteps: Timestep, key: Key[Array, ""], *, lags: int, num_probes: int
) -> dict[str, tuple[dict[str, Array], Array, Array]]:
    """For each memory: the eigenvalues by layer, the gradient by lag and its samples."""
    features = agent.features(params, timesteps)

    def look_at(label: str) -> tuple[dict[str, Array], Array, Array]:
        field = _BRANCHES[label]
        memory = getattr(agent.network, field).memory
        encoded: Any = agent.network.apply(
            params.network, features, method=lambda network, each: getattr(network, field).encoder(each)
        )
        x = encoded.astype(jnp.float32)  # bfloat16 would round the gradients
        variables = {"params": params.network["params"][field].get("memory", {})}
        few = slice(None), slice(_OBSERVED_ENVS)
        decays = layer_decays(memory, variables, x[few], timesteps.reset[few])
        horizon = memory_horizon(memory, variables, x, timesteps.reset, key, lags=lags, num_probes=num_probes)
        return decays, *horizon

    return {label: look_at(label) for label in find_memories(agent)}


def _layer_result(
    label: str, name: str, layer: nn.Module, decays: dict[str, np.ndarray | None], reset: np.ndarray
) -> dict[str, Any]:
    source = "none" if not has_decay(layer) else "constant" if isinstance(layer, CONSTANT) else "observed"
    return {
        "memory": label,
        "name": name,
        "kind": type(layer).__name__,
        "carry": _size(*carry_size(layer)),
        "source": source,
        "note": missing_decay(layer) if source == "none" else None,
        **{when: None if each is None else _spectrum(each, reset) for when, each in decays.items()},
    }


def _spectrum(eigenvalues: np.ndarray, reset: np.ndarray) -> dict[str, Any]:
    """The distribution of eigenvalues, constant `[n]` or observed `[T, B, n]`, and a sample of them."""
    if eigenvalues.ndim > 1:
        eigenvalues = eigenvalues[~reset[:, : eigenvalues.shape[1]]].reshape(-1)
    ordered = eigenvalues[np.argsort(np.abs(eigenvalues), kind="stable")]
    if not ordered.size:  # a single step was seen, and it was a first one
        empty = dict.fromkeys(_RANGE)
        return {"count": 0, "time_constant": empty, "modulus": empty, "not_decaying": None, "sample": []}
    modulus = np.abs(ordered).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        constants = np.where(modulus >= 1, np.inf, -1.0 / np.log(modulus))
    picked = np.unique(np.linspace(0, ordered.size - 1, _SAMPLED_EIGENVALUES).round().astype(int))
    return {
        "count": int(ordered.size),
        "time_constant": _range(constants),
        "modulus": _range(modulus),
        "not_decaying": float((modulus >= 1).mean()),
        "sample": [[_finite(each.real), _finite(each.imag)] for each in ordered[picked].tolist()],
    }


def _horizon_result(seen: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    samples = next(iter(seen.values()))[1]
    return {
        "samples": [int(each) for each in samples],
        **{
            when: {
                "gradient": [_finite(each) for each in gradient.tolist()],
                "lag_at_mass": {f"{mass:g}": lag_at_mass(gradient, mass) for mass in MASSES},
            }
            for when, (gradient, _) in seen.items()
        },
    }


def _range(values: np.ndarray) -> dict[str, float | None]:
    least, median, most = np.min(values), np.median(values), np.max(values)
    return {name: _finite(float(each)) for name, each in zip(_RANGE, (least, median, most), strict=True)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(spectrum: dict[str, Any] | None, column: str) -> str:
    if spectrum is None or not spectrum["count"]:
        return "-"
    value = spectrum["time_constant"][column]
    return "inf" if value is None else f"{value:.4g}"


def _size(values: int, num_bytes: int) -> dict[str, int]:
    return {"values": values, "bytes": num_bytes}


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _save(run: Path, result: dict[str, Any], *, tensorboard: bool) -> None:
    try:
        picture = draw_inspection(result)
        write_json(run / INSPECTION_FILE, result)
        write_picture(run / PICTURE_FILE, picture)
    except OSError as error:
        raise RunFolderError(f"{run / INSPECTION_FILE} cannot be written: {error.strerror}") from error
    if tensorboard:
        events = EventWriter(run, suffix=".inspection")
        events.image("inspection", picture, result["env_steps"])
        events.close()
