"""Environments that step in JAX and tell exactly which observation starts an episode."""

from .checks import EnvCheckError, check_env
from .core import Environment, EnvParams, EnvState, Outcome, Timestep, longest_episode, null_action
from .host import HostEnvironment, HostParams, HostVectorEnv, vectorize
from .host_copies import HostCopy, HostEnvError
from .registry import is_known, list_envs, make, register_env, register_suite, register_unavailable
from .spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple, flat_spaces, part_names, to_gymnasium
from .vector import VectorEnv, VectorState, check_batch, environment_keys

__all__ = [
    "Box",
    "Dict",
    "Discrete",
    "EnvCheckError",
    "EnvParams",
    "EnvState",
    "Environment",
    "HostCopy",
    "HostEnvError",
    "HostEnvironment",
    "HostParams",
    "HostVectorEnv",
    "MultiDiscrete",
    "Outcome",
    "Space",
    "Timestep",
    "Tuple",
    "VectorEnv",
    "VectorState",
    "check_batch",
    "check_env",
    "environment_keys",
    "flat_spaces",
    "is_known",
    "list_envs",
    "longest_episode",
    "make",
    "null_action",
    "part_names",
    "register_env",
    "register_suite",
    "register_unavailable",
    "to_gymnasium",
    "vectorize",
]

register_env("hippodrome/Empty-5x5", "hippodrome.envs.empty_room:EmptyRoom", size=5)
register_env("hippodrome/Empty-8x8", "hippodrome.envs.empty_room:EmptyRoom", size=8)
register_env("hippodrome/PixelPendulum", "hippodrome.envs.distractors:PixelPendulum")
register_env("hippodrome/Overwrite", "hippodrome.envs.overwrite:Overwrite")
