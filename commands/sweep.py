"""`hippodrome sweep`."""

from pathlib import Path

from .words import leading_words, own_parser, print_result

SWEEP_HELP = """Search for a configuration: many trials, each a run of vmapped seeds, through Ray Tune.

hippodrome sweep NAME [--run-dir DIR] [--address HOST:PORT] [OPTIONS]
hippodrome sweep --resume DIR

NAME: a YAML file, or a name from `hippodrome list sweeps`. It holds the base configuration, the search space (grid,
choice, uniform, log_uniform, integer), the search (random, optuna) and the scheduler (none, asha, pbt).
--run-dir DIR: where to write (default: runs/sweep-NAME-TIME).
--resume DIR: go on with a sweep whose driver was killed: trials that ended stay, the others go on.
--address HOST:PORT: run on that Ray cluster; without it, on this machine.
--json: print the report as JSON.

OPTIONS are those of `hippodrome train`; they hold for every trial."""


def sweep(arguments: list[str]) -> int:
    """Run a sweep, or go on with one. Returns the exit code."""
    words, rest = leading_words(arguments, 1)
    parser = own_parser("hippodrome sweep")
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--address")
    parser.add_argument("--json", action="store_true")
    known, overrides = parser.parse_known_args(rest)
    if not words and not known.resume:
        if {"-h", "--help"} & set(overrides):
            from hippodrome.training.config import load_config

            load_config(overrides=overrides, prog="hippodrome sweep", description=SWEEP_HELP)
        parser.error("NAME is missing; see `hippodrome list sweeps`")
    if known.resume and (words or known.run_dir or overrides):
        parser.error("--resume goes on with the sweep of that folder, as it is; leave the rest out")
    import jax

    from hippodrome.training.sweep import resume_sweep, run_sweep

    jax.config.update("jax_platforms", "cpu")  # the GPUs of this machine are the trials'

    if known.resume:
        report = resume_sweep(known.resume, address=known.address)
    else:
        report = run_sweep(words[0], overrides=overrides, run_dir=known.run_dir, address=known.address)
    from hippodrome.training.sweep.report import report_lines, report_table

    print_result(report, known.json, report_table)
    if not known.json:
        print("\n".join(report_lines(report)))
    return 0
