"""The command line: `hippodrome COMMAND ...`; `hippodrome --help` lists the commands."""

import argparse
import difflib
import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

USAGE = """usage: hippodrome COMMAND ...   (or: uv run launch.py COMMAND ...)

commands:
  train      train an agent, evaluate it, write a run folder; resume one
  evaluate   play episodes with a trained agent, or with your own policy
  inspect    look inside a run's memory: eigenvalues, time constants, how far back, size
  predict    let a run's world model foresee episodes: errors by step, pictures, a GIF
  record     write episodes of a run's policy, or of random actions, to a file to learn from
  suite      train and score one agent per environment of a suite
  bench      compare memories on sequence tasks of seconds
  list       show the environments, memories, agents, configs and suites there are

examples:
  hippodrome train                                       the default experiment, configs/quickstart.yaml
  hippodrome train quickstart --memory.kind gru --agent.gamma 0.99
  hippodrome train my.yaml --run-dir runs/mine --num-seeds 8
  hippodrome train --resume runs/mine
  hippodrome evaluate runs/mine --episodes 512
  hippodrome evaluate runs/meta --split held-out-tasks
  hippodrome inspect runs/mine --lags 200
  hippodrome record runs/mine --episodes 512 --out mine.npz
  hippodrome train dreamer --dataset mine.npz
  hippodrome suite popgym-easy --total-env-steps 1e6
  hippodrome bench memory s5 mamba gru --probes parity induction
  hippodrome list envs --json

`hippodrome COMMAND --help` tells the rest. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted and saved.
"""

TRAIN_HELP = """Train an agent, evaluate it and write a run folder.

hippodrome train [CONFIG] [--run-dir DIR] [--resume RUN] [OPTIONS]

CONFIG: a YAML file, a run folder, or a name from `hippodrome list configs` (default: quickstart).
--run-dir DIR: where to write; it must not exist or be empty (default: runs/MEMORY-ENV-TIME).
--resume RUN: go on, bit for bit, from the newest checkpoint of a run folder; anew where it has none yet."""

SUITE_HELP = """Train one agent per environment of a suite at one budget, evaluate each, and score them together.

hippodrome suite NAME [CONFIG | MODULE:POLICY] [--run-dir DIR] [--compare DIR ...] [--episodes N] [--json] [OPTIONS]

NAME: from `hippodrome list suites`. CONFIG: as for `hippodrome train`; its environment is replaced by each of the
suite's. MODULE:POLICY: score a policy of your own instead, without training.
--run-dir DIR: where to write (default: runs/NAME-CONFIG-MEMORY). The same command goes on after a kill: finished
runs are kept, a half-finished one is resumed.
--compare DIR ...: folders of the same suite whose rows to show beside.
--episodes N: episodes to score each environment by (default: evaluation.episodes of the config).
--json: print the table as JSON."""

LISTS = ("envs", "memories", "agents", "configs", "suites")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 bad input, 130 interrupted and saved.

    Args:
        argv: the words after the program's name; those of this process where None.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(message)s")
    try:
        return _dispatch(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print("interrupted before there was anything to save", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; what is still buffered must not be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(arguments: list[str]) -> int:
    commands = {
        "train": _train,
        "evaluate": _evaluate,
        "inspect": _inspect,
        "predict": _predict,
        "record": _record,
        "suite": _suite,
        "bench": _bench,
        "list": _list,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from hippodrome import __version__

        print(f"hippodrome {__version__}")
        return 0
    if arguments[0] not in commands:
        near = difflib.get_close_matches(arguments[0], commands, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(f"error: command {arguments[0]!r} is unknown{hint} (known: {', '.join(commands)})", file=sys.stderr)
        return 2
    return _reporting(commands[arguments[0]], arguments[1:])


def _reporting(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """The command's exit code; an error that a message explains is printed without a traceback."""
    from hippodrome.training.errors import HippodromeError

    try:
        return command(arguments)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror}; what was saved before is intact", file=sys.stderr)
        return 1
    except HippodromeError as error:
        interrupted = error.exit_code == 130
        print(str(error) if interrupted else f"error: {error}", file=sys.stderr)
        return error.exit_code


def _train(arguments: list[str]) -> int:
    from hippodrome.training.config import check_config, load_config
    from hippodrome.training.errors import ConfigError

    source, rest = _leading_words(arguments, 1)
    parser = _parser("hippodrome train")
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--resume", type=Path)
    known, overrides = parser.parse_known_args(rest)
    if known.run_dir and known.resume:
        parser.error("--resume goes on in the folder of the run; leave --run-dir out")
    if known.resume and not (known.resume / "config.yaml").is_file():
        raise ConfigError(f"--resume {known.resume}: there is no run folder of that name (no config.yaml in it)")
    name = source[0] if source else known.resume or "quickstart"
    config = load_config(name, overrides, description=TRAIN_HELP)
    check_config(config)
    from hippodrome.training import train

    train(config, run_dir=known.run_dir, resume=known.resume, command=["hippodrome", "train", *arguments])
    return 0


def _evaluate(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="hippodrome evaluate", description="Play episodes and tell the returns.")
    parser.add_argument("policy", metavar="RUN | MODULE:POLICY", help="a run folder, or a policy of your own")
    parser.add_argument("--env", help="another environment id (required for MODULE:POLICY)")
    parser.add_argument("--episodes", type=int, default=256, help="one episode in each of N environments (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the environments (%(default)s)")
    parser.add_argument("--step", default="last", help="checkpoint: best, last, or its number (%(default)s)")
    parser.add_argument(
        "--split",
        help="of a run on meta-episodes: train, held-out-tasks, held-out-projections or held-out-both; tells the "
        "return by trial",
    )
    parser.add_argument("--trials", type=int, help="with --split: trials of a meta-episode (those of training)")
    parser.add_argument("--oracle", nargs="+", default=[], metavar="RUN", help="with --split: runs of single tasks")
    parser.add_argument("--import", dest="modules", nargs="+", action="extend", default=[], help="packages to import")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    known = parser.parse_args(arguments)
    if known.episodes < 1:
        parser.error(f"--episodes {known.episodes} must be at least 1")
    if not 0 <= known.seed < 2**32:
        parser.error(f"--seed {known.seed} must be from 0 to {2**32 - 1}")
    if known.step not in ("best", "last") and not known.step.isdecimal():
        parser.error(f"--step {known.step!r} must be best, last or the number of a checkpoint")
    from hippodrome.training.plugins import load_plugins

    is_run = Path(known.policy).is_dir()
    if not is_run and ":" not in known.policy:
        parser.error(f"there is no run folder {known.policy!r}; give one, or a policy of your own as MODULE:POLICY")
    load_plugins(known.modules if is_run else [*known.modules, known.policy.partition(":")[0]])
    chosen = {"episodes": known.episodes, "seed": known.seed}
    chosen["step"] = int(known.step) if known.step.isdecimal() else known.step
    if known.split is None:
        if known.trials is not None or known.oracle:
            parser.error("--trials and --oracle need --split")
        from hippodrome.training.evaluation import evaluate, evaluation_table

        _print_result(evaluate(known.policy, env=known.env, **chosen), known.json, evaluation_table)
        return 0
    if not is_run or known.env is not None:
        parser.error(f"--split {known.split} needs a run folder, and its own environment (no --env)")
    from hippodrome.training.adaptation import adaptation_table, evaluate_adaptation

    chosen |= {"split": known.split, "trials": known.trials, "oracles": known.oracle}
    _print_result(evaluate_adaptation(known.policy, **chosen), known.json, adaptation_table)
    return 0


def _inspect(arguments: list[str]) -> int:
    parser = _look_parser(
        "hippodrome inspect",
        "Look inside the memory of a run, before and after training: eigenvalues and time constants, how far back it "
        "looks, the size of its carry. Writes inspection.json, inspection.png and a TensorBoard image.",
    )
    parser.add_argument("--lags", type=int, default=128, help="steps to look back at most (%(default)s)")
    known, chosen = _look_arguments(parser, arguments, ("lags",))
    from hippodrome.training.inspection import inspect_run, inspection_table

    result = inspect_run(known.run, lags=known.lags, **chosen)
    _print_result(result, known.json, inspection_table)
    return 0


def _predict(arguments: list[str]) -> int:
    parser = _look_parser(
        "hippodrome predict",
        "Let the world model of a run foresee episodes after a few observations. Writes prediction.json, "
        "prediction.png, a TensorBoard image and, where the environment shows pictures, prediction.gif.",
    )
    parser.add_argument("--context", type=int, default=8, help="observations given (%(default)s)")
    parser.add_argument("--horizon", type=int, help="steps foreseen after them (32, or what an episode has left)")
    parser.add_argument("--episodes", type=int, default=32, help="episodes (%(default)s)")
    known, chosen = _look_arguments(parser, arguments, ("context", "horizon", "episodes"))
    from hippodrome.training.prediction import predict_run, prediction_table

    result = predict_run(known.run, context=known.context, horizon=known.horizon, num_episodes=known.episodes, **chosen)
    _print_result(result, known.json, prediction_table)
    return 0


def _record(arguments: list[str]) -> int:
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
    from hippodrome.training.recording import record_episodes, recording_table

    ways = {"random": known.random, "deterministic": known.deterministic}
    result = record_episodes(known.run, known.out, episodes=known.episodes, **ways, **chosen)
    _print_result(result, known.json, recording_table)
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
    from hippodrome.training.plugins import load_plugins

    load_plugins(known.modules)
    step, train_seed = (int(each) if each.isdecimal() else each for each in (known.step, known.train_seed))
    return known, {"seed": known.seed, "step": step, "train_seed": train_seed}


def _print_result(result: dict[str, Any], as_json: bool, table: Callable[[dict[str, Any]], Any]) -> None:
    if as_json:
        print(json.dumps(result, indent=1, allow_nan=False))
        return
    from hippodrome.training.progress import table_console

    table_console().print(table(result))


def _suite(arguments: list[str]) -> int:
    words, rest = _leading_words(arguments, 2)
    parser = _parser("hippodrome suite")
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--compare", type=Path, nargs="+", default=[])
    parser.add_argument("--episodes", type=int)
    parser.add_argument("--json", action="store_true")
    known, overrides = parser.parse_known_args(rest)
    if not words:
        if {"-h", "--help"} & set(overrides):
            from hippodrome.training.config import load_config

            load_config(overrides=overrides, prog="hippodrome suite", description=SUITE_HELP)
        parser.error("NAME is missing; see `hippodrome list suites`")
    from hippodrome.training.suite import run_suite

    run_suite(
        *words,
        overrides=overrides,
        run_dir=known.run_dir,
        compare=known.compare,
        episodes=known.episodes,
        as_json=known.json,
        description=SUITE_HELP,
        command=["hippodrome", "suite", *arguments],
    )
    return 0


def _bench(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="hippodrome bench", description="Train memories on sequence tasks of seconds, and tell size and speed."
    )
    parser.add_argument("what", choices=["memory"], help="what to compare")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="memories (default: all)")
    parser.add_argument("--probes", nargs="+", metavar="PROBE", help="tasks (default: all)")
    parser.add_argument("--d-model", type=int, default=64, help="width (%(default)s)")
    parser.add_argument("--num-layers", type=int, default=2, help="blocks (%(default)s)")
    parser.add_argument("--length", type=int, default=64, help="steps trained on (%(default)s)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256], help="steps evaluated (64 256)")
    parser.add_argument("--updates", type=int, default=600, help="of training, each cell (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="sequences of an update (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="the highest (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and data (%(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file, written after each cell; cells it has are kept")
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    parser.add_argument("--import", dest="modules", nargs="+", action="extend", default=[], help="packages to import")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    known = parser.parse_args(arguments)
    for name in ("d_model", "num_layers", "length", "updates", "batch", "learning_rate"):
        if not 0 < getattr(known, name) < float("inf"):
            parser.error(f"--{name.replace('_', '-')} {getattr(known, name)} must be positive and finite")
    if not 0 <= known.seed < 2**32:
        parser.error(f"--seed {known.seed} must be from 0 to {2**32 - 1}")
    from hippodrome.training.plugins import load_plugins

    load_plugins(known.modules)
    from hippodrome.memory import list_memories
    from hippodrome.training.bench import BenchConfig, run_bench
    from hippodrome.training.probes import PROBES

    names = ("d_model", "num_layers", "length", "updates", "batch", "learning_rate", "seed")
    config = BenchConfig(**{name: getattr(known, name) for name in names}, lengths=tuple(known.lengths))
    kinds, probes = known.kinds or list_memories(), known.probes or list(PROBES)
    run_bench(kinds, probes, config, out=known.out, markdown=known.markdown, as_json=known.json)
    return 0


def _list(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="hippodrome list", description="Show the names that there are.")
    parser.add_argument("what", metavar="{" + ",".join(LISTS) + "}")
    parser.add_argument("--import", dest="modules", nargs="+", action="extend", default=[], help="packages to import")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    known = parser.parse_args(arguments)
    if known.what not in LISTS:
        from hippodrome.training.errors import ConfigError, unknown_name

        raise ConfigError(unknown_name("list", known.what, LISTS))
    if known.what in ("envs", "memories", "agents"):
        from hippodrome.training.plugins import load_plugins

        load_plugins(known.modules)
    names = _names(known.what)
    print(json.dumps(names) if known.json else "\n".join(names))
    return 0


def _names(what: str) -> list[str]:
    if what == "envs":
        from hippodrome.envs import list_envs

        return list_envs()
    if what == "memories":
        from hippodrome.memory import list_memories

        return list_memories()
    if what == "agents":
        from hippodrome.agents import list_agents

        return list_agents()
    if what == "configs":
        from hippodrome.training.config import list_configs

        return list_configs()
    from hippodrome.training.config import list_suites

    return list_suites()


def _leading_words(arguments: list[str], most: int) -> tuple[list[str], list[str]]:
    """The words before the first flag, at most so many, and the rest."""
    count = 0
    while count < min(most, len(arguments)) and not arguments[count].startswith("-"):
        count += 1
    return arguments[:count], arguments[count:]


def _parser(prog: str) -> argparse.ArgumentParser:
    """A parser of a command's own flags; all others, `--help` too, are left to the configuration's parser."""
    return argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False, usage=f"{prog} --help shows all")


if __name__ == "__main__":
    sys.exit(main())
