"""`hippodrome evaluate`."""

import argparse
from pathlib import Path

from .words import print_result


def evaluate(arguments: list[str]) -> int:
    """Play episodes, or meta-episodes of a split. Returns the exit code."""
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
    from hippodrome.training.config.plugins import load_plugins

    is_run = Path(known.policy).is_dir()
    if not is_run and ":" not in known.policy:
        parser.error(f"there is no run folder {known.policy!r}; give one, or a policy of your own as MODULE:POLICY")
    load_plugins(known.modules if is_run else [*known.modules, known.policy.partition(":")[0]])
    chosen = {"episodes": known.episodes, "seed": known.seed}
    chosen["step"] = int(known.step) if known.step.isdecimal() else known.step
    if known.split is None:
        if known.trials is not None or known.oracle:
            parser.error("--trials and --oracle need --split")
        from hippodrome.training.evaluation.evaluate import evaluate, evaluation_table

        print_result(evaluate(known.policy, env=known.env, **chosen), known.json, evaluation_table)
        return 0
    if not is_run or known.env is not None:
        parser.error(f"--split {known.split} needs a run folder, and its own environment (no --env)")
    from hippodrome.training.evaluation.adaptation import adaptation_table, evaluate_adaptation

    chosen |= {"split": known.split, "trials": known.trials, "oracles": known.oracle}
    print_result(evaluate_adaptation(known.policy, **chosen), known.json, adaptation_table)
    return 0
