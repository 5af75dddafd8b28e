"""What the nodes of a cluster have: versions, devices, the run folder; told before training begins."""

import contextlib
import os
import platform
import secrets
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hippodrome import __version__
from hippodrome.training.config.schema import ClusterConfig
from hippodrome.training.errors import ConfigError
from hippodrome.training.run_folder import PACKAGES, installed_versions, usable_cores

_TOKEN = ".shared_folder"


def require_equal_nodes(folder: Path, cluster: ClusterConfig, import_modules: Sequence[str] = ()) -> None:
    """Raise ConfigError unless all nodes have this process's versions, import the packages and see the run folder."""
    with shared_token(folder) as token:
        reports = ask_nodes(folder, import_modules, seconds=cluster.start_timeout)
    versions = {"this process": own_versions(), **{name: each["versions"] for name, each in reports.items()}}
    found = version_differences(versions)
    if found:
        listing = "\n".join(f"  - {line}" for line in found)
        raise ConfigError(f"the nodes of the cluster differ in what is installed:\n{listing}\nMake them the same")
    broken = [f"{name}: {each['error']}" for name, each in reports.items() if each["error"]]
    if broken:
        raise ConfigError(broken)
    blind = [name for name, each in reports.items() if each["token"] != token]
    if blind:
        raise ConfigError(
            f"run folder {folder} is not shared: {', '.join(blind)} cannot see what this process writes there; choose "
            "a --run-dir on storage that every node mounts at the same path"
        )


@contextlib.contextmanager
def shared_token(folder: Path | None) -> Iterator[str | None]:
    """A word in a file of the folder, for nodes to read; None where there is no folder."""
    if folder is None:
        yield None
        return
    token, path = secrets.token_hex(8), folder / _TOKEN
    path.write_text(token, encoding="ascii")
    try:
        yield token
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def ask_nodes(
    folder: Path | None = None, import_modules: Sequence[str] = (), *, seconds: float, devices: bool = False
) -> dict[str, dict[str, Any]]:
    """What every node that is alive says of itself, by name and address.

    Args:
        folder: whose token to read.
        import_modules: packages to import.
        seconds: how long each may take to answer.
        devices: whether to ask jax for its devices, which takes seconds.

    Raises:
        ConfigError: for a node that cannot import the package or does not answer.
    """
    asked = {}
    ask: Any = ray.remote(describe_node)
    for node in ray.nodes():
        if node["Alive"]:
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            gpus = node["Resources"].get("GPU", 0) if devices else 0
            options = {"num_cpus": 0, "num_gpus": gpus, "scheduling_strategy": where, "max_retries": 0}
            asked[name] = ask.options(**options).remote(folder, list(import_modules), devices)
    reports = {}
    for name, reference in asked.items():
        try:
            reports[name] = ray.get(reference, timeout=seconds)
        except ray.exceptions.GetTimeoutError as error:
            raise ConfigError(
                f"node {name} did not answer within {seconds:g} s: it may be busy (cluster.start_timeout waits longer) "
                "or have no room for another process"
            ) from error
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise ConfigError(f"node {name} cannot run hippodrome: {last}") from error
    return reports


def describe_node(folder: Path | None, import_modules: list[str], devices: bool) -> dict[str, Any]:
    """What this process has: runs on a node."""
    from hippodrome.training.config.plugins import load_plugins

    token, error, found = None, None, []
    if folder is not None:
        with contextlib.suppress(OSError):
            token = (folder / _TOKEN).read_text(encoding="ascii")
    try:
        load_plugins(import_modules)
    except ConfigError as wrong:
        error = str(wrong)
    if devices:
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        import jax

        found = [device.device_kind for device in jax.local_devices()]
    return {
        "hostname": socket.gethostname(),
        "cores": usable_cores(),
        "versions": own_versions(),
        "devices": found,
        "token": token,
        "error": error,
    }


def own_versions() -> dict[str, str]:
    """Versions of what must be the same on every node."""
    own = {"python": platform.python_version(), "hippodrome": __version__}
    return {**own, **installed_versions(PACKAGES)}


def version_differences(versions: dict[str, dict[str, str]]) -> list[str]:
    """One line for each package of which there are several versions: `jax: 0.10.2 on a, b; 0.10.1 on c`."""
    lines = []
    for package in sorted({name for each in versions.values() for name in each}):
        places: dict[str, list[str]] = {}
        for where, each in versions.items():
            places.setdefault(each.get(package, "absent"), []).append(where)
        if len(places) > 1:
            listing = "; ".join(f"{version} on {', '.join(names)}" for version, names in places.items())
            lines.append(f"{package}: {listing}")
    return lines
