"""Meta-episodes: `meta/Name`, tasks of one kind drawn anew for each, with a train split and held-out ones.

`trials/suite/Name` makes meta-episodes of any other environment.
"""

from typing import Any

from hippodrome.envs.registry import make, register_env, register_suite
from hippodrome.envs.trials import Trials

_HERE = __name__


def make_bandit(arms: int = 5, steps: int = 100, split: str = "train") -> Trials:
    """Bernoulli bandits of RL^2: `steps` pulls."""
    from .bandit import Bandit

    return Trials(Bandit(arms, split), steps=steps)


def make_tabular_mdp(
    trials: int = 10,
    states: int = 10,
    actions: int = 5,
    horizon: int = 10,
    split: str = "train",
    shows: tuple[str, ...] = (),
) -> Trials:
    """Tabular processes of RL^2."""
    from .tabular_mdp import TabularMDP

    return Trials(TabularMDP(states, actions, horizon, split), trials=trials, shows=shows)


def make_grid_navigation(trials: int = 4, size: int = 5, horizon: int = 15, split: str = "train") -> Trials:
    """A hidden goal on a grid, as in VariBAD."""
    from .navigation import GridNavigation

    return Trials(GridNavigation(size, horizon, split), trials=trials)


def make_point_navigation(trials: int = 4, horizon: int = 20, split: str = "train") -> Trials:
    """A hidden goal on a half circle."""
    from .navigation import PointNavigation

    return Trials(PointNavigation(horizon, split), trials=trials)


def make_control(
    trials: int = 8,
    members: tuple[str, ...] | None = None,
    projected: bool = True,
    split: str = "train",
    horizon: int = 25,
    endless: bool = False,
    shows: tuple[str, ...] = (),
) -> Trials:
    """Continuous control under varied physics and goals, seen through random projections."""
    from . import control

    suite = control.make_control(members, split=split, projected=projected, horizon=horizon)
    return Trials(suite, trials=trials, endless=endless, shows=shows)


def make_playground(
    trials: int = 4,
    members: tuple[str, ...] | None = None,
    max_steps: int = 250,
    projected: bool = True,
    split: str = "train",
) -> Trials:
    """DeepMind Control tasks of MuJoCo Playground behind random projections: the suite of the S5 paper."""
    from . import playground

    suite = playground.make_control_suite(members, max_steps=max_steps, split=split, projected=projected)
    return Trials(suite, trials=trials)


def make_cartpole(trials: int = 16, split: str = "train") -> Trials:
    """The task of the S5 code: one cartpole of 200 steps, its observation mapped by a random 4 x 4 matrix, every trial
    of a meta-episode from the same start."""
    from hippodrome.envs.projection import Projection

    from .cartpole import ShortCartPole

    return Trials(Projection(ShortCartPole(), split=split, actions=False), trials=trials, same_start=True)


def make_trials(
    env_id: str,
    trials: int | None = None,
    steps: int | None = None,
    same_start: bool = False,
    endless: bool = False,
    shows: tuple[str, ...] = (),
    **kwargs: Any,
) -> Trials:
    """Any environment in meta-episodes; `kwargs` go to its constructor."""
    within = make(env_id, **kwargs)
    return Trials(within, trials=trials, steps=steps, same_start=same_start, endless=endless, shows=shows)


register_env("meta/Bandit", f"{_HERE}:make_bandit")
register_env("meta/TabularMDP", f"{_HERE}:make_tabular_mdp")
register_env("meta/GridNavigation", f"{_HERE}:make_grid_navigation")
register_env("meta/PointNavigation", f"{_HERE}:make_point_navigation")
register_env("meta/Control", f"{_HERE}:make_control")
register_env("meta/Playground", f"{_HERE}:make_playground")
register_env("meta/CartPole", f"{_HERE}:make_cartpole")
register_suite("trials", f"{_HERE}:make_trials")
