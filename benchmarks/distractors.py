"""What a world model's latents hold of a pendulum and of what moves behind it: linear probes.

    uv run benchmarks/distractors.py [--backgrounds clean noise texture] [--arms reconstruction ...] [--seeds 0 1 2]
                                     [--updates 500] [--results docs/measured/distractors.json] [--table-only]

A world model learns from one fixed data set of random torques on hippodrome/PixelPendulum, 32 x 32 pixels: 1,024
windows of 32 steps from the start of an episode. Then ridge regression reads two things from its features (deter and
the latent's probabilities) at every step from the 8th on: the state (cosine, sine and speed of the angle) and the
distractor (the background's colours, averaged over 4 x 4 fields without the rod). The regression is fitted on 256 fresh
windows with the training textures, and tested on 256 others and on 256 with held-out textures. R^2 is the mean over the
numbers regressed on. The arms add up: a decoder; with latent reconstruction; with masks; with bisimulation; the last
without the decoder (HRSSM); and Barlow instead of all of them. Every cell is kept in the results file, so the command
may be killed and given again.
"""

import argparse
import dataclasses
import logging
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from measured import Results

from hippodrome.agents import ReplayBatch, ReplayStep
from hippodrome.agents.dreamer.world_model import observe_window, world_model_loss
from hippodrome.envs import environment_keys, make
from hippodrome.training.config import load_config
from hippodrome.training.evaluation.statistics import bootstrap_interval
from hippodrome.training.step import make_experiment

LENGTH, SKIPPED, TRAIN_WINDOWS, PROBE_WINDOWS = 32, 8, 1024, 256
FIELDS = 4
BACKGROUNDS = ("clean", "noise", "texture")
LATENT = ("--agent.latent-coef", "1")
MASK = ("--agent.mask-ratio", "0.5", "--agent.mask-patch", "5")
BISIMULATION = ("--agent.bisimulation-coef", "1")
NO_DECODER = ("--agent.reconstruction-coef", "0")
ARMS = {
    "reconstruction": (),
    "+ latent": LATENT,
    "+ mask": (*LATENT, *MASK),
    "+ bisimulation": (*LATENT, *MASK, *BISIMULATION),
    "full": (*LATENT, *MASK, *BISIMULATION, *NO_DECODER),
    "Barlow": ("--agent.barlow-coef", "1", *NO_DECODER),
}
MODEL = (
    *("--memory.kind", "s5", "--memory.d-state", "128", "--memory.num-layers", "2", "--agent.posterior", "parallel"),
    *("--agent.batch-length", str(LENGTH), "--agent.imagination-stride", str(LENGTH), "--agent.image-depth", "4"),
    *("--agent.learning-rate", "1e-3", "--agent.reward-unit", "0.005"),
)


@dataclasses.dataclass(frozen=True)
class Recording:
    """Windows, and what a probe is to find in them.

    Attributes:
        steps: leaves `[T, N, ...]`.
        state: cos, sin and speed of the angle, `[T, N, 3]`.
        distractor: mean colours of the background by field, `[T, N, 48]`, 0 where the rod covers a field.
    """

    steps: ReplayStep
    state: np.ndarray
    distractor: np.ndarray


def record(background: str, split: str, seed: int, windows: int) -> Recording:
    """The first steps of as many episodes under uniformly random torques."""
    env = make("hippodrome/PixelPendulum", background=background, split=split, size=32)
    clean = make("hippodrome/PixelPendulum", size=32)
    params = env.default_params
    action_space = env.action_space(params)

    def one(key):
        reset_key, act_key = jax.random.split(key)
        observation, state = env.reset_env(reset_key, params)

        def step(carried, step_key):
            observation, state, action, reward, reset = carried
            seen = ReplayStep(observation, reset, action, reward, jnp.asarray(False), jnp.asarray(False))
            action_key, env_key = jax.random.split(step_key)
            next_action = action_space.sample(action_key)
            plain = clean.render(env_key, state)
            following = env.step_env(env_key, state, next_action, params)
            carried = (following[0], following[1], next_action, following[2], jnp.asarray(False))
            return carried, (seen, state.pendulum.theta, state.pendulum.theta_dot, plain)

        first = observation, state, jnp.zeros(action_space.shape), jnp.zeros(()), jnp.asarray(True)
        return jax.lax.scan(step, first, jax.random.split(act_key, LENGTH))[1]

    keys = environment_keys(jax.random.key(seed), 0, windows)
    steps, theta, speed, plain = jax.jit(jax.vmap(one, out_axes=1))(keys)
    theta, speed = np.asarray(theta), np.asarray(speed)
    state = np.stack([np.cos(theta), np.sin(theta), speed], -1)
    return Recording(steps, state, field_colours(np.asarray(steps.observation), np.asarray(plain)))


def field_colours(picture: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """Mean of each colour over each field, of the pixels that the rod does not touch; 0 where it covers all of them."""
    behind = (plain == plain[..., :1, :1, :]).all(-1, keepdims=True)

    def by_field(x):
        size = x.shape[-2] // FIELDS
        return x.reshape(*x.shape[:-3], FIELDS, size, FIELDS, size, x.shape[-1]).sum((-4, -2))

    total, count = by_field(np.where(behind, picture / 255.0, 0.0)), by_field(behind.astype(float))
    mean = np.where(count > 0, total / np.maximum(count, 1), 0.0)
    return mean.reshape(*mean.shape[:-3], -1)


class WorldModel:
    """One arm on one background."""

    def __init__(self, background: str, arm: str, seed: int):
        words = ["--env.id", "hippodrome/PixelPendulum", "--env.kwargs", f"background={background}", "size=32"]
        words += [*MODEL, *ARMS[arm]]
        self.agent: Any = make_experiment(load_config("dreamer", words)).agent
        self.unmasked: Any = make_experiment(load_config("dreamer", [*words, "--agent.mask-ratio", "0"])).agent
        self.state = jax.jit(lambda key: self.agent.init(key, 1))(jax.random.key(seed))
        self.batch_size = 8

    def batch(self, steps: ReplayStep, chosen: jax.Array) -> ReplayBatch:
        """Windows by number."""
        return ReplayBatch(jax.tree.map(lambda leaf: leaf[:, chosen], steps), self.agent.initial_carry(len(chosen)))

    def learn(self, steps: ReplayStep, updates: int, key: jax.Array) -> float:
        """As many updates of the world model alone; the last mean loss."""
        agent = self.agent
        reward_range = steps.reward.min(), steps.reward.max()

        def update(steps, carried, update_key):
            params, target, optimizer = carried
            choose_key, loss_key = jax.random.split(update_key)
            batch = self.batch(steps, jax.random.randint(choose_key, (self.batch_size,), 0, TRAIN_WINDOWS))
            loss, grads = jax.value_and_grad(
                lambda params: world_model_loss(agent, params, target, reward_range, batch, loss_key)[0]
            )(params)
            change, optimizer = agent.optimizer.update(grads, optimizer, params)
            params = optax.apply_updates(params, change)
            rate = agent.config.target_rate
            target = {name: optax.incremental_update(params[name], target[name], rate) for name in target}
            return (params, target, optimizer), loss

        target = dict(self.state.target) if self.state.target else {}
        carried = self.state.params, target, self.state.optimizer
        run = jax.jit(lambda carried, keys, steps: jax.lax.scan(partial(update, steps), carried, keys))
        (params, target, optimizer), loss = run(carried, jax.random.split(key, updates), steps)
        self.state = dataclasses.replace(self.state, params=params, target=target or (), optimizer=optimizer)
        return float(loss[-100:].mean())

    def features(self, steps: ReplayStep) -> np.ndarray:
        """deter and the latent's probabilities from unmasked pictures, `[T, N, F]`."""

        @jax.jit
        def run(params, target, steps):
            batch = ReplayBatch(steps, self.agent.initial_carry(steps.reset.shape[1]))
            beliefs = observe_window(self.unmasked, params, target, batch, jax.random.key(0))
            probs = jnp.exp(beliefs.latents.posterior)
            return jnp.concatenate([beliefs.latents.deter, probs.reshape(*probs.shape[:2], -1)], -1)

        return np.asarray(run(self.state.params, self.state.target, steps))


def probe_r2(
    fit: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], ridge: float = 1.0
) -> list[float]:
    """R^2 of a ridge regression of standardised numbers, for each of them that varies."""
    (x, y), (x_test, y_test) = ([each[SKIPPED:].reshape(-1, each.shape[-1]) for each in pair] for pair in (fit, test))
    y, y_test = (each[:, y.std(0) > 1e-6] for each in (y, y_test))
    if not y.shape[1]:
        return []
    mean, std = x.mean(0), x.std(0) + 1e-6
    x, x_test = ((each - mean) / std for each in (x, x_test))
    centre = y.mean(0)
    weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (y - centre))
    error = ((x_test @ weights + centre - y_test) ** 2).sum(0)
    return (1.0 - error / ((y_test - y_test.mean(0)) ** 2).sum(0)).tolist()


def measure(background: str, arm: str, seed: int, updates: int) -> dict[str, float | None]:
    """One cell."""
    model = WorldModel(background, arm, seed)
    began = time.perf_counter()
    loss = model.learn(record(background, "train", 1000 + seed, TRAIN_WINDOWS).steps, updates, jax.random.key(seed))
    found: dict[str, float | None] = {"loss": loss, "seconds": time.perf_counter() - began}
    recordings = {
        "fit": record(background, "train", 2000 + seed, PROBE_WINDOWS),
        "seen": record(background, "train", 3000 + seed, PROBE_WINDOWS),
        "held_out": record(background, "held_out", 4000 + seed, PROBE_WINDOWS),
    }
    features = {name: model.features(each.steps) for name, each in recordings.items()}
    for what in ("state", "distractor"):
        pairs = {name: (features[name], getattr(each, what)) for name, each in recordings.items()}
        for name in ("seen", "held_out"):
            each = probe_r2(pairs["fit"], pairs[name])
            found[f"{what}_{name}"] = statistics.mean(each) if each else None
            if what == "state":
                found |= dict(zip((f"cos_{name}", f"sin_{name}", f"speed_{name}"), each, strict=True))
    return found


def table(results: dict[str, dict[str, Any]], seeds: list[int]) -> str:
    """Means over seeds, with the 95 % bootstrap interval of the state's."""
    lines = [
        "| Background | Arm | Seeds | State R² | State R², held out | of which speed | Distractor R² | "
        "Distractor R², held out | Time (s) |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for background in BACKGROUNDS:
        for arm in ARMS:
            found = [results[key] for seed in seeds if (key := f"{background}/{arm}/{seed}") in results]
            if not found:
                continue
            cells = [background, arm, str(len(found))]
            for name in ("state_seen", "state_held_out", "speed_held_out", "distractor_seen", "distractor_held_out"):
                values = [each[name] for each in found if name in each]  # the oldest do not tell the speed alone
                if None in values or not values:  # nothing of it varies
                    cells.append("-")
                    continue
                mean = statistics.mean(values)
                low, high = bootstrap_interval(lambda x: float(x.mean()), [np.array(values)])
                cells.append(f"{mean:.2f} ({low:.2f} to {high:.2f})")
            cells.append(f"{statistics.median(each['seconds'] for each in found):.0f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Fill the table, cell by cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backgrounds", nargs="+", choices=BACKGROUNDS, default=list(BACKGROUNDS))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--results", type=Path, default=Path("docs/measured/distractors.json"))
    parser.add_argument("--table-only", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("hippodrome.config").setLevel(logging.ERROR)
    results = Results(arguments.results)
    todo = [(b, a, s) for s in arguments.seeds for b in arguments.backgrounds for a in arguments.arms]
    for background, arm, seed in [] if arguments.table_only else todo:
        key = f"{background}/{arm}/{seed}"
        if key in results.found:
            continue
        results.add(key, measure(background, arm, seed, arguments.updates))
        print(key, {name: value and round(value, 3) for name, value in results.found[key].items()}, flush=True)
        # One program for each arm and background stays in memory otherwise.
        jax.clear_caches()
    print(table(results.found, arguments.seeds))


if __name__ == "__main__":
    main()
