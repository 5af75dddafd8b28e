"""Agents: pure functions over environments and memories."""

from .core import (
    Agent,
    Decision,
    Feedback,
    ReplayBatch,
    ReplayStep,
    Rollout,
    agent_config,
    agent_learns_from_replay,
    list_agents,
    make_agent,
    register_agent,
)
from .dreamer import Dreamer, DreamerConfig, DreamerState
from .ppo import PPO, PPOConfig, PPOParams, PPOState

__all__ = [
    "PPO",
    "Agent",
    "Decision",
    "Dreamer",
    "DreamerConfig",
    "DreamerState",
    "Feedback",
    "PPOConfig",
    "PPOParams",
    "PPOState",
    "ReplayBatch",
    "ReplayStep",
    "Rollout",
    "agent_config",
    "agent_learns_from_replay",
    "list_agents",
    "make_agent",
    "register_agent",
]
