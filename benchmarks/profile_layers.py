"""Where the time of the memory's gradient goes: thread time by kind of operation, from a trace of jax.profiler.

    uv run benchmarks/profile_layers.py [--batch 8] [--steps 1024] [--glu full]

Four pre-norm residual S5 layers of width 256, the memory of benchmarks/train_step.py. "products" are the operations
with a matrix product in them, with whatever XLA fused to it; "recurrence" the loops over time; "elementwise" the rest.
"""

import argparse
import collections
import gzip
import json
import re
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

from hippodrome.memory import make_memory

WIDTH, LAYERS, REPEATS = 256, 4, 5


def kinds_of(program: str) -> dict[str, str]:
    """The kind of every operation in the entry computation of an optimised HLO text, by its name."""
    computations = re.split(r"\n(?=%|ENTRY )", program)
    products = {each.split(" ", 1)[0].lstrip("%") for each in computations if " dot(" in each}
    (entry,) = (each for each in computations if each.startswith("ENTRY"))
    kinds = {}
    for name, rest in re.findall(r"^  (?:ROOT )?%(\S+) = (.*)$", entry, re.MULTILINE):
        called = re.search(r"calls=%([^\s,]+)", rest)
        if " while(" in rest:
            kinds[name] = "recurrence"
        elif " dot(" in rest or (called and called[1] in products):
            kinds[name] = "products"
        else:
            kinds[name] = "elementwise"
    return kinds


def main() -> None:
    """Trace and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1024)
    parser.add_argument("--glu", default="full")
    arguments = parser.parse_args()
    memory = make_memory("s5", d_model=WIDTH, d_state=WIDTH, num_layers=LAYERS, glu=arguments.glu)
    x = jax.random.normal(jax.random.key(0), (arguments.steps, arguments.batch, WIDTH))
    reset = jax.random.uniform(jax.random.key(1), x.shape[:2]) < 0.01
    carry = memory.initial_carry((arguments.batch,))
    params = jax.jit(memory.init)(jax.random.key(2), carry, x[:2], reset[:2])
    gradient = jax.jit(jax.grad(lambda p, x: jnp.sum(memory.apply(p, carry, x, reset)[1] ** 2), argnums=(0, 1)))
    compiled = gradient.lower(params, x).compile()
    jax.block_until_ready(compiled(params, x))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(REPEATS):
                jax.block_until_ready(compiled(params, x))
        (path,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    kinds, times = kinds_of(compiled.as_text()), collections.Counter()
    for event in events:
        # Operations inside a loop are not in the entry computation: the loop's own span holds them.
        if kind := kinds.get(event.get("args", {}).get("hlo_op")):
            times[kind] += event["dur"] / 1e3 / REPEATS
    for kind, milliseconds in times.most_common():
        print(f"{kind:12} {milliseconds:8.1f} ms {milliseconds / times.total():6.0%}")


if __name__ == "__main__":
    main()
