"""Environments of other libraries behind this one's protocol; each library is imported only when one of its is made."""

from hippodrome.envs.registry import register_env, register_suite, register_unavailable

# Every environment of gymnax 1.0 that fits (docs/environments.md says why two do not).
_GYMNAX = (
    "Acrobot-v1",
    "Asterix-MinAtar",
    "BernoulliBandit-misc",
    "Breakout-MinAtar",
    "CartPole-v1",
    "Catch-bsuite",
    "DiscountingChain-bsuite",
    "FourRooms-misc",
    "Freeway-MinAtar",
    "FrozenLake-misc",
    "GaussianBandit-misc",
    "MemoryChain-bsuite",
    "MetaMaze-misc",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "PointRobot-misc",
    "Pong-misc",
    "Reacher-misc",
    "Seaquest-MinAtar",
    "SimpleBandit-bsuite",
    "SpaceInvaders-MinAtar",
    "Swimmer-misc",
    "UmbrellaChain-bsuite",
)
_GYMNAX_UNAVAILABLE = {
    "DeepSea-bsuite": "it overrides gymnax's auto-resetting `step` to carry scores from episode to episode, which an "
    "environment that only steps and resets cannot do",
    "MNISTBandit-bsuite": "it downloads MNIST when it is made",
}

for _name in _GYMNAX:
    register_env(f"gymnax/{_name}", f"{__name__}.gymnax_env:make_gymnax", gymnax_id=_name)
for _name, _reason in _GYMNAX_UNAVAILABLE.items():
    register_unavailable(f"gymnax/{_name}", _reason)
register_suite("gymnasium", f"{__name__}.gymnasium_env:make_gymnasium")
register_suite("playground", f"{__name__}.playground_env:make_playground")
