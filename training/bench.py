"""`hippodrome bench memory`: every memory on every probe, with its size and speed; resumable cell by cell.

Legend: T steps, B sequences.
"""

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from rich.table import Table

from hippodrome.memory import make_memory

from .checkpoint.files import read_json, write_json, write_text
from .errors import ConfigError, unknown_name
from .log.progress import table_console
from .probes import PROBES, Probe


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """How each cell is trained and measured.

    Attributes:
        d_model, num_layers: of the memory; its other fields have their defaults.
        length: steps of the sequences trained on.
        lengths: steps of the sequences evaluated.
        updates, batch, learning_rate: of Adam with a one-cycle schedule.
        seed: of parameters and data.
    """

    d_model: int = 64
    num_layers: int = 2
    length: int = 64
    lengths: tuple[int, ...] = (64, 256)
    updates: int = 600
    batch: int = 32
    learning_rate: float = 3e-3
    seed: int = 0


class _Classifier(nn.Module):
    """A memory between one-hot tokens and a linear readout of the targets."""

    memory: nn.Module
    num_tokens: int
    num_targets: int

    @nn.compact
    def __call__(self, tokens):
        x = jax.nn.one_hot(tokens, self.num_tokens)
        reset = jnp.zeros(tokens.shape, bool).at[0].set(True)
        _, y = self.memory(self.memory.initial_carry(tokens.shape[1:]), x, reset)
        return nn.Dense(self.num_targets)(y)


def run_bench(
    kinds: Sequence[str],
    probes: Sequence[str],
    config: BenchConfig,
    *,
    out: Path | None = None,
    markdown: Path | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Train and measure every pair of memory and probe, print the table and return the results.

    Args:
        kinds: memories by name.
        probes: tasks by name.
        config: how.
        out: a JSON file that is written after every cell; cells it has already are kept, if made with this `config`.
        markdown: a file for the table as Markdown.
        as_json: print JSON instead of the table.

    Raises:
        ConfigError: for an unknown name, a length that a probe does not allow, or an `out` of another configuration.
    """
    errors = [error for kind in kinds for error in _memory_errors(kind, config)]
    errors += [unknown_name("probe", name, PROBES) for name in probes if name not in PROBES]
    for name in set(probes) & set(PROBES):
        shortest = min(config.length, *config.lengths)
        if shortest < PROBES[name].min_length:
            errors.append(f"length {shortest} must be at least {PROBES[name].min_length} for the probe {name}")
    for flag, path in (("--out", out), ("--markdown", markdown)):
        if path is not None and not path.parent.is_dir():
            errors.append(f"{flag} {path}: there is no folder {path.parent}; make it first")
        if path is not None and path.is_dir():
            errors.append(f"{flag} {path} is a folder; name a file")
    if errors:
        raise ConfigError(errors)
    settings = {**dataclasses.asdict(config), "lengths": list(config.lengths)}
    results = {"config": settings, "memories": {}, "accuracy": {}}
    if out is not None and out.exists():
        before = read_json(out)
        if not isinstance(before, dict) or not all(isinstance(before.get(name), dict) for name in results):
            raise ConfigError(f"{out} exists and holds no results of this command; choose another --out")
        if before["config"] != settings:
            raise ConfigError(f"{out} was made with {before.get('config')}, not {settings}; choose another --out")
        results = before
    for kind in kinds:
        if kind not in results["memories"]:
            print(f"{kind}: size and speed", file=sys.stderr)
            results["memories"][kind] = _measure(kind, config)
        for name in probes:
            cells = results["accuracy"].setdefault(kind, {})
            if name not in cells:
                print(f"{kind}: {name}", file=sys.stderr)
                cells[name] = _accuracy(kind, PROBES[name], config)
            if out is not None:
                write_json(out, results)
        jax.clear_caches()
    # Before the file: what has been measured is not lost with it.
    if as_json:
        print(json.dumps(results, indent=1, allow_nan=False))
    else:
        console = table_console()
        console.print(bench_table(results, kinds, probes))
        console.print("\n".join(f"{name}: {PROBES[name].about}" for name in probes), highlight=False)
    if markdown is not None:
        try:
            write_text(markdown, bench_markdown(results, kinds, probes))
        except OSError as error:
            raise ConfigError(f"--markdown {markdown}: {error.strerror}") from error
    return results


def _memory_errors(kind: str, config: BenchConfig) -> list[str]:
    """Why a memory cannot be made with these sizes, if so."""
    from hippodrome.memory import list_memories

    if kind not in list_memories():
        return [unknown_name("memory", kind, list_memories())]
    try:
        make_memory(kind, d_model=config.d_model, num_layers=config.num_layers)
    except ValueError as error:
        return [f"{error}; leave {kind} out, or choose another --d-model"]
    return []


def bench_table(results: dict[str, Any], kinds: Sequence[str], probes: Sequence[str]) -> Table:
    """The results as a table for a terminal: accuracy at each length, and what the memory costs."""
    table = Table(title=_title(results))
    head, *rows = _rows(results, kinds, probes)
    for index, column in enumerate(head):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    return table


def bench_markdown(results: dict[str, Any], kinds: Sequence[str], probes: Sequence[str]) -> str:
    """The same as Markdown, with what each probe asks for."""
    head, *rows = (f"| {' | '.join(row)} |" for row in _rows(results, kinds, probes))
    legend = [f"- {name.replace('_', ' ')}: {PROBES[name].about}" for name in probes]
    title = _title(results)
    table = [head, f"|---|{'---:|' * (head.count('|') - 2)}", *rows]
    return "\n".join([f"{title[0].upper()}{title[1:]}:", "", *table, "", *legend]) + "\n"


def _title(results: dict[str, Any]) -> str:
    config = results["config"]
    return f"accuracy at {', '.join(map(str, config['lengths']))} steps, trained at {config['length']}"


def _rows(results: dict[str, Any], kinds: Sequence[str], probes: Sequence[str]) -> Iterator[list[str]]:
    """The head of the table, then a row for each memory."""
    columns = ["memory", *probes, "parameters", "carry (floats)", "gradient (us/token)", "step (us)"]
    yield [column.replace("_", " ") for column in columns]
    for kind in kinds:
        about = results["memories"][kind]
        cells = (_accuracies(results["accuracy"][kind][name]) for name in probes)
        parameters, carry = f"{about['parameters']:,}", f"{about['carry']:,}"
        yield [kind, *cells, parameters, carry, f"{about['gradient_us']:.2f}", f"{about['step_us']:.0f}"]


def _accuracies(values: list[float] | None) -> str:
    return "diverged" if values is None else " ".join(f"{each:.2f}" for each in values)


def _measure(kind: str, config: BenchConfig) -> dict[str, Any]:
    """Parameters and carry of the memory, time of its gradient per token and of a single step."""
    memory = make_memory(kind, d_model=config.d_model, num_layers=config.num_layers)
    carry = memory.initial_carry((config.batch,))
    x = jax.random.normal(jax.random.key(0), (config.length, config.batch, config.d_model))
    reset = jnp.zeros(x.shape[:2], bool).at[0].set(True)
    params = jax.jit(memory.init)(jax.random.key(1), carry, x, reset)

    def loss(params: Any) -> Any:
        y: Any = memory.apply(params, carry, x, reset)[1]
        return (y**2).sum()

    gradient = jax.jit(jax.grad(loss))
    step = jax.jit(lambda carry: memory.apply(params, carry, x[0], reset[0], method="step"))
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "carry": sum(leaf.size for leaf in jax.tree.leaves(carry)) // config.batch,
        "gradient_us": 1e6 * _seconds(lambda: gradient(params)) / (config.length * config.batch),
        "step_us": 1e6 * _seconds(lambda: step(carry)),
    }


def _seconds(call: Any, repeats: int = 7) -> float:
    """Median wall-clock time of a call after one to compile."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def _accuracy(kind: str, probe: Probe, config: BenchConfig) -> list[float] | None:
    """Train on one probe; the accuracy on fresh sequences of each length, None if a parameter is no longer finite."""
    memory = make_memory(kind, d_model=config.d_model, num_layers=config.num_layers, projection="always")
    model = _Classifier(memory, probe.num_tokens, probe.num_targets)
    data_key, init_key, test_key = jax.random.split(jax.random.key(config.seed), 3)
    schedule = optax.cosine_onecycle_schedule(config.updates, config.learning_rate)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def loss(params, key):
        tokens, targets, asked = probe.sample(key, config.length, config.batch)
        losses = optax.softmax_cross_entropy_with_integer_labels(model.apply(params, tokens), targets)
        return jnp.where(asked, losses, 0.0).sum() / asked.sum()

    def update(state, key):
        params, moments = state
        gradient = jax.grad(loss)(params, key)
        change, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(params, change), moments), None

    # Keys are arguments: of constants XLA would draw the sequences while it compiles.
    @jax.jit
    def train(init_key, data_key):
        tokens, _, _ = probe.sample(data_key, config.length, config.batch)
        params = model.init(init_key, tokens)
        keys = jax.random.split(data_key, config.updates)
        return jax.lax.scan(update, (params, optimizer.init(params)), keys)[0][0]

    def accuracy(params, test_key, length):
        tokens, targets, asked = probe.sample(test_key, length, 256)
        logits: Any = model.apply(params, tokens)
        right = (logits.argmax(-1) == targets) & asked
        return right.sum() / asked.sum()

    params = train(init_key, data_key)
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params)):
        return None
    return [float(jax.jit(accuracy, static_argnums=2)(params, test_key, length)) for length in config.lengths]
