"""Agents: pure functions over environments and memories."""

from .core import Agent, Decision, Rollout, agent_config, list_agents, make_agent, register_agent
from .ppo import PPO, PPOConfig, PPOParams, PPOState

__all__ = [
    "PPO",
    "Agent",
    "Decision",
    "PPOConfig",
    "PPOParams",
    "PPOState",
    "Rollout",
    "agent_config",
    "list_agents",
    "make_agent",
    "register_agent",
]
