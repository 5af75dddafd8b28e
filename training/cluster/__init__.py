"""One run trained by many processes that Ray starts, on this machine or a cluster; survives the death of any of them.

`hippodrome train CONFIG --cluster.num-workers 4` comes here. Every worker is an actor of its own process with its own
devices and its share of the environments; `jax.distributed` joins them, so all run the one train step of
`training.step` under `shard_map`, and only sums over devices cross between them. This package and `training.sweep`
alone import ray.
"""

from pathlib import Path

from hippodrome.training.config import TrainConfig
from hippodrome.training.run_folder import require_unused

from .ray_session import connected

__all__ = ["connected", "train_on_cluster"]


def train_on_cluster(
    config: TrainConfig,
    *,
    run_dir: str | Path | None = None,
    resume: str | Path | None = None,
    command: list[str] | None = None,
) -> Path:
    """`training.train` with `config.cluster.num_workers` workers; arguments, result and errors as there.

    A worker that dies, and with it the group, is replaced: the newest checkpoint is restored and training goes on;
    failures.jsonl in the run folder holds a line about each. At most `cluster.max_failures` times in a row without a
    checkpoint between.

    Raises:
        ConfigError: also where nothing listens at the address, the cluster has too few cores or GPUs, or its nodes
            differ in what is installed or do not share the run folder.
        TrainingError: also where workers keep dying; with the last one's traceback.
    """
    if run_dir is not None:
        require_unused(Path(run_dir))  # before Ray starts, which takes seconds
    with connected(config.cluster, import_modules=config.import_modules):
        from .driver import supervise  # imports ray, which `connected` has set up

        return supervise(config, run_dir, resume, command)
