"""Sequence memories under one contract, with exact resets at episode boundaries."""

from .blocks import ResidualBlock, Stack
from .checks import MemoryCheckError, check_memory
from .core import Carry, Memory, reset_where
from .gru import GRU
from .lstm import LSTM
from .none import NoMemory
from .registry import (
    MemoryConfig,
    build_memory,
    list_memories,
    make_memory,
    memory_config,
    parameter_labels,
    register,
)
from .s5 import S5
from .scan import linear_recurrence

__all__ = [
    "GRU",
    "LSTM",
    "S5",
    "Carry",
    "Memory",
    "MemoryCheckError",
    "MemoryConfig",
    "NoMemory",
    "ResidualBlock",
    "Stack",
    "build_memory",
    "check_memory",
    "linear_recurrence",
    "list_memories",
    "make_memory",
    "memory_config",
    "parameter_labels",
    "register",
    "reset_where",
]
