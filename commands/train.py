"""`hippodrome train`."""

from pathlib import Path

from .words import leading_words, own_parser

TRAIN_HELP = """Train an agent, evaluate it and write a run folder.

hippodrome train [CONFIG] [--run-dir DIR] [--resume RUN] [OPTIONS]

CONFIG: a YAML file, a run folder, or a name from `hippodrome list configs` (default: quickstart).
--run-dir DIR: where to write; it must not exist or be empty (default: runs/MEMORY-ENV-TIME).
--resume RUN: go on, bit for bit, from the newest checkpoint of a run folder; anew where it has none yet."""


def train(arguments: list[str]) -> int:
    """Train an agent, or go on with a run. Returns the exit code."""
    from hippodrome.training.config import check_config, load_config
    from hippodrome.training.errors import ConfigError

    source, rest = leading_words(arguments, 1)
    parser = own_parser("hippodrome train")
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--resume", type=Path)
    known, overrides = parser.parse_known_args(rest)
    if known.run_dir and known.resume:
        parser.error("--resume goes on in the folder of the run; leave --run-dir out")
    if known.resume and not (known.resume / "config.yaml").is_file():
        raise ConfigError(f"--resume {known.resume}: there is no run folder of that name (no config.yaml in it)")
    name = source[0] if source else known.resume or "quickstart"
    config = load_config(name, overrides, description=TRAIN_HELP)
    if config.cluster.num_workers:
        import jax

        jax.config.update("jax_platforms", "cpu")  # the GPUs of this machine are the workers'
    check_config(config)
    from hippodrome.training import train

    train(config, run_dir=known.run_dir, resume=known.resume, command=["hippodrome", "train", *arguments])
    return 0
