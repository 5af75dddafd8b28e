"""Ray while a command needs it: a cluster of this machine alone, or one that is joined."""

import contextlib
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hippodrome.training.config.schema import ClusterConfig
from hippodrome.training.errors import ConfigError
from hippodrome.training.run_folder import usable_cores

from .package import stage_packages

# The name has history: where it is 0, Ray gives every port the loopback address, on any system.
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# Else Ray's workers give way to every other process of the machine, which a command without Ray does not.
_NICENESS = "RAY_worker_niceness"
_OBJECT_STORE_BYTES = 512 * 2**20
_CONNECT_SECONDS = 5.0


@contextlib.contextmanager
def connected(
    cluster: ClusterConfig, *, import_modules: Sequence[str] = (), variables: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Ray for the length of the block; a session that is there already is used and left as it is.

    Args:
        cluster: its address; without one a cluster of this machine alone is started, on loopback, without a dashboard,
            with as many cores as the workers need, and ended with the block, or with this process.
        import_modules: packages that the nodes of a joined cluster are given besides hippodrome.
        variables: environment variables of every process that Ray starts; a session that is there keeps its own.

    Raises:
        ConfigError: if this machine has fewer cores than the workers need, nothing listens at the address, or what
            does is no Ray cluster of this version.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield
        return
    runtime_env: dict[str, Any] = {"env_vars": dict(variables)} if variables else {}
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    with contextlib.ExitStack() as stack:
        if cluster.address is None:
            _require_cores(cluster)
            os.environ.setdefault(_LOOPBACK, "0")
            os.environ.setdefault(_NICENESS, "0")
            import ray

            ray.init(
                address="local",  # a cluster that runs on this machine is not meant
                num_cpus=max(1, cluster.num_processes) * cluster.cores_per_worker,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                runtime_env=runtime_env or None,
                **quiet,
            )
        else:
            _require_listener(cluster.address)
            if cluster.address.startswith(("127.", "localhost:")):
                os.environ.setdefault(_LOOPBACK, "0")  # else this process would look for a node of its outer address
            import ray

            staged = stack.enter_context(tempfile.TemporaryDirectory(prefix="hippodrome-package-"))
            folders = stage_packages(Path(staged), import_modules)
            runtime_env["py_modules"] = [str(folder) for folder in folders]
            _join(cluster.address, runtime_env, quiet)
        stack.callback(ray.shutdown)
        yield


def _require_cores(cluster: ClusterConfig) -> None:
    needed, there = cluster.num_processes * cluster.cores_per_worker, usable_cores()
    field = "num_actors" if cluster.num_actors else "num_workers"
    if needed > there:
        raise ConfigError(
            f"cluster.{field}={cluster.num_processes} * cluster.cores_per_worker={cluster.cores_per_worker} = "
            f"{needed} cores, but this machine has {there}; lower them, or join a larger cluster by --cluster.address"
        )


def _require_listener(address: str) -> None:
    """Raise ConfigError within seconds where nothing listens."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if address.startswith("ray://") or not colon or not port.isdecimal():
        raise ConfigError(
            f"cluster.address={address!r} must be HOST:PORT of the head node, as `ray start --head` prints it, or "
            '"auto" on a node of the cluster'
        )
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS) as connection:
            answers = _speaks_http2(connection)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cluster.address={address}: nothing listens there ({error}); start a head node by `ray start --head "
            "--port PORT`, or leave the address out to train on this machine"
        ) from error
    if not answers:
        raise ConfigError(
            f"cluster.address={address}: what listens there is no head of a Ray cluster; give the address that "
            "`ray start --head` printed"
        )


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether a server of gRPC is at the other end, as Ray's is: else Ray would try for minutes, and say nothing."""
    if os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):
        return True
    try:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        answer = connection.recv(9)
    except OSError:  # nothing came in time
        return False
    return len(answer) > 3 and answer[3] == 4  # a frame of settings


def _join(address: str, runtime_env: dict[str, Any], quiet: dict[str, Any]) -> None:
    import ray

    try:
        ray.init(address=address, runtime_env=runtime_env, **quiet)
    except (RuntimeError, ConnectionError, ValueError, ray.exceptions.RayError) as error:
        ray.shutdown()
        if address == "auto" and isinstance(error, ConnectionError):
            raise ConfigError(
                "cluster.address=auto: no Ray cluster runs on this machine; start one by `ray start --head`, or give "
                "HOST:PORT of a head node"
            ) from error
        raise ConfigError(
            f"cluster.address={address}: what listens there cannot be joined: {error}. It must be the head of a Ray "
            f"cluster of this version ({ray.__version__}); where it asks for a token, as `ray start` does by itself, "
            "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token to that of the head node"
        ) from error
