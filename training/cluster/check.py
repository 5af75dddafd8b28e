"""`hippodrome cluster-check`: what every node has, what differs, and how fast workers add up arrays."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hippodrome.training.config import load_config
from hippodrome.training.config.schema import ClusterConfig
from hippodrome.training.errors import ConfigError, HippodromeError
from hippodrome.training.run_folder import usable_cores

from .ray_session import connected

SIZES = (4 * 2**10, 4 * 2**20, 64 * 2**20)
_REPEATS = 10


def check_cluster(
    address: str | None,
    *,
    num_workers: int = 0,
    gpus_per_worker: int = 0,
    folder: str | Path | None = None,
    import_modules: Sequence[str] = (),
) -> dict[str, Any]:
    """What training would find on a cluster.

    Args:
        address: of the cluster; None starts one of this machine.
        num_workers: to add up arrays with; 0: one for each node, or two where there is a single one with two cores.
        gpus_per_worker: GPUs each owns.
        folder: that all nodes should see; not checked where None.
        import_modules: packages the workers must be able to import.

    Returns:
        `ok`; `problems`, one line each; `nodes`, by name; `folder`; `workers`; `all_reduce`, with bytes, seconds and
        bytes per second.

    Raises:
        ConfigError: if nothing listens at the address, or the folder is none.
    """
    for name, number in (("--num-workers", num_workers), ("--gpus-per-worker", gpus_per_worker)):
        if number < 0:
            raise ConfigError(f"{name} {number} must be at least 0")
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"--folder {folder}: there is no such folder")
    cluster = ClusterConfig(
        num_workers=num_workers or min(2, usable_cores()), address=address, gpus_per_worker=gpus_per_worker
    )
    with connected(cluster, import_modules=import_modules):
        from .group import WorkerLost, group_of, require_room
        from .nodes import ask_nodes, own_versions, shared_token, version_differences

        problems: list[str] = []
        shared = None if folder is None else Path(folder).absolute()
        with shared_token(shared) as token:
            nodes = ask_nodes(shared, import_modules, seconds=cluster.start_timeout, devices=True)
        versions = {"this process": own_versions(), **{name: each["versions"] for name, each in nodes.items()}}
        problems += version_differences(versions)
        problems += [f"{name}: {each['error']}" for name, each in nodes.items() if each["error"]]
        for each in nodes.values():
            each["sees_folder"] = folder is None or each.pop("token") == token
        problems += [f"{name} does not see {folder}" for name, each in nodes.items() if not each["sees_folder"]]
        workers = num_workers or max(len(nodes), cluster.num_workers)
        cluster = dataclasses.replace(cluster, num_workers=workers)
        config = load_config("quickstart")
        config = dataclasses.replace(config, cluster=cluster, num_devices=max(1, gpus_per_worker))
        seconds: list[float] = []
        try:
            require_room(cluster)
            with group_of(config) as group:
                seconds = group.get(group.call("reduce", list(SIZES), _REPEATS), 300.0)[0]
        except (HippodromeError, WorkerLost) as error:
            problems.append(f"all-reduce of {workers} workers: {error}")
    reduced = [
        {"bytes": size, "seconds": each, "bytes_per_second": size / each}
        for size, each in zip(SIZES, seconds, strict=False)
    ]
    shown = None if folder is None else str(folder)
    found = {"ok": not problems, "problems": problems, "nodes": nodes, "folder": shown}
    return {**found, "workers": workers, "all_reduce": reduced}


def check_table(result: dict[str, Any]) -> Table:
    """The result as a table for a terminal."""
    table = Table(title="cluster-check: " + ("all is well" if result["ok"] else "there are problems"))
    table.add_column("what")
    table.add_column("found")
    for name, node in result["nodes"].items():
        versions = node["versions"]
        shown = ", ".join(
            f"{each} {versions[each]}" for each in ("python", "ray", "jax", "hippodrome") if each in versions
        )
        table.add_row(name, f"{node['cores']} cores, {', '.join(node['devices']) or 'no devices'}\n{shown}")
    if result["folder"] is not None:
        blind = sum(not node["sees_folder"] for node in result["nodes"].values())
        table.add_row(
            "folder", f"{result['folder']}\n" + (f"not seen by {blind} nodes" if blind else "seen by all nodes")
        )
    for each in result["all_reduce"] if result["workers"] > 1 else []:
        speed = f"{1e3 * each['seconds']:.2f} ms, {each['bytes_per_second'] / 1e6:,.0f} MB/s"
        table.add_row(f"all-reduce of {each['bytes']:,} bytes, {result['workers']} workers", speed)
    for problem in result["problems"]:
        table.add_row("problem", problem)
    return table
