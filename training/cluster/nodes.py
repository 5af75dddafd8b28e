"""What the nodes of a cluster have: versions, devices, the run folder; told before training begins."""

import contextlib
import os
import platform
import secrets
import socket
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hippodrome.training.errors import ConfigError
from hippodrome.training.run_folder import PACKAGES, installed_versions

_TOKEN = ".shared_folder"
_SECONDS = 60.0


def require_equal_nodes(folder: Path) -> None:
    """Raise ConfigError unless all nodes have the same versions as this process, and see the same run folder."""
    token = secrets.token_hex(8)
    (folder / _TOKEN).write_text(token, encoding="ascii")
    try:
        reports = ask_nodes(folder)
    finally:
        with contextlib.suppress(OSError):
            (folder / _TOKEN).unlink()
    found = version_differences(
        {"this process": own_versions(), **{name: each["versions"] for name, each in reports.items()}}
    )
    if found:
        listing = "\n".join(f"  - {line}" for line in found)
        raise ConfigError(f"the nodes of the cluster differ in what is installed:\n{listing}\nMake them the same")
    blind = [name for name, each in reports.items() if each["token"] != token]
    if blind:
        raise ConfigError(
            f"run folder {folder} is not shared: {', '.join(blind)} cannot see what this process writes there; choose "
            "a --run-dir on storage that every node mounts at the same path"
        )


def ask_nodes(folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """What every node that is alive says of itself, by name and address.

    Raises:
        ConfigError: for a node that cannot import the package or does not answer.
    """
    asked = {}
    ask: Any = ray.remote(describe_node)
    for node in ray.nodes():
        if node["Alive"]:
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[name] = ask.options(num_cpus=0, scheduling_strategy=where, max_retries=0).remote(folder)
    reports = {}
    for name, reference in asked.items():
        try:
            reports[name] = ray.get(reference, timeout=_SECONDS)
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise ConfigError(f"node {name} cannot run hippodrome: {last}") from error
    return reports


def describe_node(folder: Path | None) -> dict[str, Any]:
    """What this process has: runs on a node."""
    token = None
    if folder is not None:
        with contextlib.suppress(OSError):
            token = (folder / _TOKEN).read_text(encoding="ascii")
    return {"hostname": socket.gethostname(), "cores": os.cpu_count(), "versions": own_versions(), "token": token}


def own_versions() -> dict[str, str]:
    """Versions of what must be the same on every node."""
    return {"python": platform.python_version(), "ray": ray.__version__, **installed_versions(PACKAGES)}


def version_differences(versions: dict[str, dict[str, str]]) -> list[str]:
    """One line for each package of which there are several versions: `jax: 0.10.2 on a, b; 0.10.1 on c`."""
    lines = []
    for package in sorted({name for each in versions.values() for name in each}):
        places: dict[str, list[str]] = {}
        for where, each in versions.items():
            places.setdefault(each.get(package, "absent"), []).append(where)
        if len(places) > 1:
            lines.append(
                f"{package}: " + "; ".join(f"{version} on {', '.join(names)}" for version, names in places.items())
            )
    return lines
