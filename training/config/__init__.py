"""Configurations: what they may say, the rules between their fields, the YAML and flags that make them."""

from .checks import build_env, check_config
from .loading import (
    config_differences,
    config_from,
    config_name,
    find_config,
    find_sweep,
    list_configs,
    list_suites,
    list_sweeps,
    load_config,
    load_suite,
    merged,
    read_yaml,
    save_config,
    write_yaml,
)
from .schema import ClusterConfig, CurriculumConfig, EnvConfig, TrainConfig

__all__ = [
    "ClusterConfig",
    "CurriculumConfig",
    "EnvConfig",
    "TrainConfig",
    "build_env",
    "check_config",
    "config_differences",
    "config_from",
    "config_name",
    "find_config",
    "find_sweep",
    "list_configs",
    "list_suites",
    "list_sweeps",
    "load_config",
    "load_suite",
    "merged",
    "read_yaml",
    "save_config",
    "write_yaml",
]
