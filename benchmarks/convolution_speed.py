"""The gradient of convolutions outside and inside a loop: jax's own, and those Dreamer's pictures go through.

    uv run benchmarks/convolution_speed.py [--size 32] [--pictures 128] [--repeats 3]

Three layers: one within the encoder; its first one, of a picture's three colours; and the decoder's last one, whose
input is first made twice as large.

Times of the gradients by kernel and pictures, milliseconds, medians of interleaved runs after one to compile. A
training step is a loop over updates, so what counts is the time inside one.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from hippodrome.agents.dreamer.convolution import convolve, convolve_few_channels, convolve_upsampled

ROUNDS = 2


def own_of_jax(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same cross-correlation with jax's gradients."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def upsampled_by_jax(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Every place twice along both sides, and then the cross-correlation."""
    return own_of_jax(x.repeat(2, axis=1).repeat(2, axis=2), kernel)


# Layer -> channels in and out, by how much its input is smaller than the picture, jax's and ours.
LAYERS: dict[str, tuple[int, int, int, Callable[..., Any], Callable[..., Any]]] = {
    "16 to 32 channels": (16, 32, 1, own_of_jax, convolve),
    "3 to 16": (3, 16, 1, own_of_jax, convolve_few_channels),
    "twice the size, 16 to 3": (16, 3, 2, upsampled_by_jax, convolve_upsampled),
}


def gradients(convolution: Callable[..., Any], *, in_loop: bool) -> Callable[..., Any]:
    """The gradients `ROUNDS` times: one after the other, or as a loop of the compiled program."""
    gradient = jax.grad(lambda x, kernel: (convolution(x, kernel) ** 2).sum(), (0, 1))

    def once(_: Any, carried: Any) -> Any:
        by_x, by_kernel = gradient(*carried)
        return jax.tree.map(lambda value, slope: value - 1e-6 * slope, carried, (by_x, by_kernel))

    def run(x: jax.Array, kernel: jax.Array) -> Any:
        if in_loop:
            return jax.lax.fori_loop(0, ROUNDS, once, (x, kernel))
        carried = (x, kernel)
        for index in range(ROUNDS):
            carried = once(index, carried)
        return carried

    return jax.jit(run)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32, help="pixels of a side (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=128, help="at once (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, in turn (default: %(default)s)")
    args = parser.parse_args()
    print("| Gradient of | by | Outside a loop (ms) | Inside (ms) |\n|---|---|---:|---:|", flush=True)
    for layer, (inside, outside, smaller, native, ours) in LAYERS.items():
        size = args.size // smaller
        x = jax.random.normal(jax.random.key(0), (args.pictures, size, size, inside))
        kernel = jax.random.normal(jax.random.key(1), (5, 5, inside, outside))
        runs = {
            (name, in_loop): gradients(convolution, in_loop=in_loop)
            for name, convolution in (("jax", native), (ours.__name__, ours))
            for in_loop in (False, True)
        }
        times: dict[Any, list[float]] = {each: [] for each in runs}
        for repeat in range(args.repeats + 1):
            for each, run in runs.items():
                start = time.perf_counter()
                jax.block_until_ready(run(x, kernel))
                if repeat:
                    times[each].append(1e3 * (time.perf_counter() - start) / ROUNDS)
        for name in ("jax", ours.__name__):
            without, within = (statistics.median(times[name, in_loop]) for in_loop in (False, True))
            print(f"| {layer} | {name} | {without:.1f} | {within:.1f} |", flush=True)
    print(f"\n{jax.default_backend()}, jax {jax.__version__}")


if __name__ == "__main__":
    main()
