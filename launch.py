"""The command line: `hippodrome COMMAND ...`; `hippodrome --help` lists the commands, `commands/` holds them."""

import difflib
import errno
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence

from hippodrome.commands import COMMANDS

USAGE = """usage: hippodrome COMMAND ...   (or: uv run launch.py COMMAND ...)

commands:
  train      train an agent, evaluate it, write a run folder; resume one
  evaluate   play episodes with a trained agent, or with your own policy
  inspect    look inside a run's memory: eigenvalues, time constants, how far back, size
  predict    let a run's world model foresee episodes: errors by step, pictures, a GIF
  record     write episodes of a run's policy, or of random actions, to a file to learn from
  suite      train and score one agent per environment of a suite
  sweep      search for a configuration by many trials, through Ray Tune
  cluster-check  does a Ray cluster have what training needs
  bench      compare memories on sequence tasks of seconds
  list       show the environments, memories, agents, configs, suites and sweeps there are

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
  hippodrome train --cluster.num-workers 4
  hippodrome sweep repeat-previous-medium --run-dir runs/sweep
  hippodrome bench memory s5 mamba gru --probes parity induction
  hippodrome list envs --json

`hippodrome COMMAND --help` tells the rest. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted and saved.
"""


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
        print("interrupted before anything new was saved; a run folder goes on by --resume", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; what is still buffered must not be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from hippodrome import __version__

        print(f"hippodrome {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        near = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(f"error: command {arguments[0]!r} is unknown{hint} (known: {', '.join(COMMANDS)})", file=sys.stderr)
        return 2
    module, _, function = COMMANDS[arguments[0]].partition(":")
    command = getattr(importlib.import_module(f"hippodrome.commands.{module}"), function)
    return _reporting(command, arguments[1:])


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


if __name__ == "__main__":
    sys.exit(main())
