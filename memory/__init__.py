"""Sequence memories under one contract, with exact resets at episode boundaries."""

from .attention import SlidingWindowAttention
from .block_gru import BlockGRU
from .blocks import GRUGate, Parallel, ResidualBlock, Stack
from .checks import MemoryCheckError, check_memory
from .core import Carry, Memory, reset_where
from .delta_net import DeltaNet, GatedDeltaNet
from .gru import GRU
from .linear_attention import LinearAttention
from .longhorn import Longhorn
from .lru import LRU
from .lstm import LSTM
from .mamba import Mamba
from .mamba2 import Mamba2
from .mamba3 import Mamba3
from .matrix import matrix_recurrence, matrix_step
from .min_gru import MinGRU
from .mlp import MLP
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
from .rg_lru import RGLRU
from .s4d import S4D
from .s5 import S5
from .s7 import S7
from .scan import linear_recurrence

__all__ = [
    "GRU",
    "LRU",
    "LSTM",
    "MLP",
    "RGLRU",
    "S4D",
    "S5",
    "S7",
    "BlockGRU",
    "Carry",
    "DeltaNet",
    "GRUGate",
    "GatedDeltaNet",
    "LinearAttention",
    "Longhorn",
    "Mamba",
    "Mamba2",
    "Mamba3",
    "Memory",
    "MemoryCheckError",
    "MemoryConfig",
    "MinGRU",
    "NoMemory",
    "Parallel",
    "ResidualBlock",
    "SlidingWindowAttention",
    "Stack",
    "build_memory",
    "check_memory",
    "linear_recurrence",
    "list_memories",
    "make_memory",
    "matrix_recurrence",
    "matrix_step",
    "memory_config",
    "parameter_labels",
    "register",
    "reset_where",
]
