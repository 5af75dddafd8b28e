"""Sweeps: many runs of one configuration with values of a search space, chosen and cut short by Ray Tune.

`hippodrome sweep configs/sweeps/NAME.yaml` comes here. A trial is a run like any other, in a folder of its own, that
trains vmapped seeds; it reports the interquartile mean of their returns, never the best seed's. This package and
`training.cluster` alone import ray.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hippodrome.training.checkpoint.files import read_json, write_json
from hippodrome.training.cluster import connected
from hippodrome.training.config.schema import ClusterConfig
from hippodrome.training.errors import ConfigError, RunFolderError
from hippodrome.training.held import held
from hippodrome.training.run_folder import create_run_folder, require_writable, usable_cores

from .config import SweepConfig, load_sweep, save_sweep, trial_config

__all__ = ["SweepConfig", "load_sweep", "resume_sweep", "run_sweep"]

SWEEP_FILE, OVERRIDES_FILE = "sweep.yaml", "overrides.json"


def run_sweep(
    source: str | Path,
    *,
    overrides: Sequence[str] = (),
    run_dir: str | Path | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Run a sweep and write its report; returns the report.

    Args:
        source: a YAML file, or a name in configs/sweeps.
        overrides: flags of `hippodrome train` that hold for every trial.
        run_dir: the folder to make; `runs/sweep-<name>-<time>` where None.
        address: of a Ray cluster, over that of the file.

    Raises:
        ConfigError: for a sweep or a space that breaks a rule, before Ray starts.
        RunFolderError: for a folder that exists.
        TrainingError: if every trial failed.
        TrainingInterrupted: after Ctrl-C or SIGTERM; `resume_sweep` goes on.
    """
    sweep = load_sweep(source, overrides, address=address)
    folder = create_run_folder(run_dir, name=f"sweep-{Path(source).stem}").absolute()
    with held(folder):
        save_sweep(sweep, folder / SWEEP_FILE)
        write_json(folder / OVERRIDES_FILE, list(overrides))
        try:
            return _run(folder, sweep, overrides, resume=False)
        except ConfigError:
            if not (folder / "trials").exists():
                shutil.rmtree(folder, ignore_errors=True)  # nothing was trained; its name is free again
            raise


def resume_sweep(folder: str | Path, *, address: str | None = None) -> dict[str, Any]:
    """Go on with a sweep whose driver ended: trials that ended stay, the others go on from their checkpoints.

    Raises:
        RunFolderError: if the folder is no sweep, or another process runs it.
    """
    folder = Path(folder).absolute()
    if not (folder / SWEEP_FILE).is_file():
        raise RunFolderError(f"{folder} is no sweep: there is no {SWEEP_FILE} in it")
    require_writable(folder)
    overrides = read_json(folder / OVERRIDES_FILE) or []
    sweep = load_sweep(folder / SWEEP_FILE, overrides, address=address)
    with held(folder):
        return _run(folder, sweep, overrides, resume=True)


def _run(folder: Path, sweep: SweepConfig, overrides: Sequence[str], *, resume: bool) -> dict[str, Any]:
    config = trial_config(sweep, {}, overrides)
    if config.cluster.num_processes:
        field = "num_workers" if config.cluster.num_workers else "num_actors"
        raise ConfigError(
            f"cluster.{field}={config.cluster.num_processes} must be 0 in a sweep: each of its trials is one process"
        )
    if sweep.address is None and sweep.cores_per_trial > usable_cores():
        raise ConfigError(
            f"cores_per_trial={sweep.cores_per_trial} must be at most the {usable_cores()} cores of this machine; "
            "lower it, or join a larger cluster by address"
        )
    cluster = ClusterConfig(
        num_workers=usable_cores() // sweep.cores_per_trial or 1,
        address=sweep.address,
        cores_per_worker=sweep.cores_per_trial,
    )
    variables = {"NPROC": str(sweep.cores_per_trial), "RAY_CHDIR_TO_TRIAL_DIR": "0"}
    # A trial that was paused, or failed, compiles the same program again.
    variables["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    if not sweep.gpus_per_trial:
        variables["JAX_PLATFORMS"] = "cpu"
    elif sweep.gpus_per_trial < 1:
        variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * sweep.gpus_per_trial:.3f}"
    with connected(cluster, import_modules=config.import_modules, variables=variables):
        from .run import run_trials  # imports ray, which `connected` has set up

        return run_trials(folder, sweep, overrides, resume=resume)
