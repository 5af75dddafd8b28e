"""Dreamer: world models over any memory."""

from .agent import Dreamer, DreamerState
from .config import DreamerConfig

__all__ = ["Dreamer", "DreamerConfig", "DreamerState"]
