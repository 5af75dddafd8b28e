"""check_env: good environments pass, and each broken one is told which rule it breaks."""

import gymnax
import pytest

from hippodrome.envs import EnvCheckError, EnvParams, check_env, list_envs, make

from .broken import BROKEN, Line

# Few, cheap and of different kinds; the others are checked with the slow tests.
QUICK = ("gymnax/CartPole-v1", "popgym/MineSweeperEasy")


def test_a_good_environment_passes():
    check_env(Line(), EnvParams(max_steps_in_episode=7), num_steps=40)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_broken_environments_are_told_what_is_wrong(broken):
    with pytest.raises(EnvCheckError, match=f"^{broken.__name__}: {BROKEN[broken]}") as caught:
        check_env(broken(), num_steps=15)
    error = caught.value
    assert error.env == broken.__name__ and error.remedy and str(error).endswith(error.remedy)


def test_a_bare_gymnax_environment_is_sent_to_the_adapter():
    with pytest.raises(EnvCheckError, match="wrap a gymnax environment in GymnaxAdapter"):
        check_env(gymnax.make("CartPole-v1")[0])


@pytest.mark.parametrize(
    "env_id",
    [
        pytest.param(env_id, marks=[] if env_id in QUICK else [pytest.mark.slow])
        for env_id in list_envs()
        if not env_id.startswith("popgym-paper/")
    ],
)
def test_every_environment_conforms(env_id):
    if env_id == "meta/Playground":
        pytest.importorskip("mujoco_playground")
    check_env(make(env_id), num_steps=1100)
