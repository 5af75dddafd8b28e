"""Hippodrome: reinforcement-learning agents in JAX that remember with state-space models."""

__version__ = "0.1.0"
