"""Looks at a checkpoint of a run: `hippodrome inspect`, `predict` and `record`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .words import print_result


def inspect(arguments: list[str]) -> int:
    """Look inside a run's memory. Returns the exit code."""
    parser = _look_parser(
        "hippodrome inspect",
        "Look inside the memory of a run, before and after training: eigenvalues and time constants, how far back it "
        "looks, the size of its carry. Writes inspection.json, inspection.png and a TensorBoard image.",
    )
    parser.add_argument("--lags", type=int, default=128, help="steps to look back at most (%(default)s)")
    known, chosen = _look_arguments(parser, arguments, ("lags",))
    from hippodrome.training.inspection.inspect import inspect_run, inspection_table

    result = inspect_run(known.run, lags=known.lags, **chosen)
    print_result(result, known.json, inspection_table)
    return 0


def predict(arguments: list[str]) -> int:
    """Let a world model foresee episodes. Returns the exit code."""
    parser = _look_parser(
        "hippodrome predict",
        "Let the world model of a run foresee episodes after a few observations. Writes prediction.json, "
        "prediction.png, a TensorBoard image and, where the environment shows pictures, prediction.gif.",
    )
    parser.add_argument("--context", type=int, default=8, help="observations given (%(default)s)")
    parser.add_argument("--horizon", type=int, help="steps foreseen after them (32, or what an episode has left)")
    parser.add_argument("--episodes", type=int, default=32, help="episodes (%(default)s)")
    known, chosen = _look_arguments(parser, arguments, ("context", "horizon", "episodes"))
    from hippodrome.training.inspection.prediction import predict_run, prediction_table

    result = predict_run(known.run, context=known.context, horizon=known.horizon, num_episodes=known.episodes, **chosen)
    print_result(result, known.json, prediction_table)
    return 0


def record(arguments: list[str]) -> int:
    """Write episodes to a file. Returns the exit code."""
    parser = _look_parser(
        "hippodrome record",
        "Play whole episodes and write them to a file that `hippodrome train dreamer --dataset FILE` learns from; "
        "docs/world_models.md describes it.",
    )
    parser.add_argument("--out", metavar="FILE", required=True, help="the file to make, .npz")
    parser.add_argument("--episodes", type=int, default=256, help="episodes, each in its own environment (%(default)s)")
    parser.add_argument("--deterministic", action="store_true", help="the most likely actions, not sampled ones")
    parser.add_argument(
        "--random", action="store_true", help="random actions; RUN may then be an environment's id or a configuration"
    )
    known, chosen = _look_arguments(parser, arguments, ("episodes",))
    if known.random and known.deterministic:
        parser.error("--random and --deterministic exclude each other")
    from hippodrome.training.dataset.recording import record_episodes, recording_table

    ways = {"random": known.random, "deterministic": known.deterministic}
    result = record_episodes(known.run, known.out, episodes=known.episodes, **ways, **chosen)
    print_result(result, known.json, recording_table)
    return 0


def _look_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """The options of commands that look at a checkpoint of a run."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--seed", type=int, default=0, help="seed of environments and noise (%(default)s)")
    parser.add_argument("--step", default="last", help="checkpoint: best, last, or its number (%(default)s)")
    parser.add_argument("--train-seed", default="best", help="of several seeds: best, or one from 0 on (%(default)s)")
    parser.add_argument("--import", dest="modules", nargs="+", action="extend", default=[], help="packages to import")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def _look_arguments(
    parser: argparse.ArgumentParser, arguments: list[str], counts: Sequence[str]
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """What was given, checked, the packages imported; and seed, step and train_seed as the functions take them."""
    known = parser.parse_args(arguments)
    for name in counts:
        if getattr(known, name) is not None and getattr(known, name) < 1:
            parser.error(f"--{name} {getattr(known, name)} must be at least 1")
    if not 0 <= known.seed < 2**32:
        parser.error(f"--seed {known.seed} must be from 0 to {2**32 - 1}")
    if known.step not in ("best", "last") and not known.step.isdecimal():
        parser.error(f"--step {known.step!r} must be best, last or the number of a checkpoint")
    if known.train_seed != "best" and not known.train_seed.isdecimal():
        parser.error(f"--train-seed {known.train_seed!r} must be best or the number of a seed, from 0 on")
    if not Path(known.run).is_dir() and not getattr(known, "random", False):
        parser.error(f"there is no run folder {known.run!r}")
    from hippodrome.training.config.plugins import load_plugins

    load_plugins(known.modules)
    step, train_seed = (int(each) if each.isdecimal() else each for each in (known.step, known.train_seed))
    return known, {"seed": known.seed, "step": step, "train_seed": train_seed}
