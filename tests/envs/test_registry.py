"""Ids, and what happens to wrong ones."""

import subprocess
import sys

import pytest

from hippodrome.envs import Environment, list_envs, make, register_env, register_unavailable, registry


@pytest.fixture(autouse=True)
def _same_ids_afterwards(monkeypatch):
    list_envs()
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    monkeypatch.setattr(registry, "_UNAVAILABLE", dict(registry._UNAVAILABLE))


class Mine(Environment):
    def __init__(self, size: int = 3, kind: str = "plain"):
        self.size, self.kind = size, kind


def test_registered_classes_and_addresses_are_made_with_their_arguments():
    register_env("tried/Small", Mine, size=2)
    env = make("tried/Small")
    assert (type(env), env.size, env.kind) == (Mine, 2, "plain")
    env = make("tried/Small", size=5, kind="other")
    assert (env.size, env.kind) == (5, "other")
    register_env("tried/Repeat", "hippodrome.envs.popgym.repeat_previous:RepeatPrevious", k=7)
    assert make("tried/Repeat").k == 7
    assert list_envs("tried") == ["tried/Repeat", "tried/Small"]


def test_registering_again_is_fine_unless_it_means_something_else():
    register_env("mine/Small", Mine, size=2)
    register_env("mine/Small", Mine, size=2)
    with pytest.raises(ValueError, match="'mine/Small' is already registered; choose another name"):
        register_env("mine/Small", Mine, size=3)


@pytest.mark.parametrize("env_id", ["Small", "mine/", "/Small"])
def test_ids_read_suite_and_name(env_id):
    with pytest.raises(ValueError, match="must read suite/Name"):
        register_env(env_id, Mine)


@pytest.mark.parametrize(
    ("wrong", "suggested"),
    [
        ("popgym/RepeatPreviousEazy", "popgym/RepeatPreviousEasy"),
        ("RepeatPreviousHard", "popgym/RepeatPreviousHard"),
        ("popgym/repeatprevioushard", "popgym/RepeatPreviousHard"),
        ("gymnax/Cartpole-v1", "gymnax/CartPole-v1"),
        ("CartPole-v1", "gymnax/CartPole-v1"),
    ],
)
def test_unknown_ids_get_suggestions(wrong, suggested):
    with pytest.raises(ValueError, match=f"unknown env id '{wrong}'; did you mean .*{suggested}"):
        make(wrong)
    with pytest.raises(ValueError, match="see `hippodrome list envs`"):
        make("zzzzzzzz")


def test_wrong_arguments_name_the_environment():
    with pytest.raises(ValueError, match=r"cannot be made with {'kk': 3}; its arguments: num_decks, k"):
        make("popgym/RepeatPreviousEasy", kk=3)
    with pytest.raises(ValueError, match=r"cannot be made .*not supported between"):
        make("popgym/RepeatPreviousEasy", k="three")


def test_unavailable_ids_say_why_and_are_not_listed():
    register_unavailable("mine/Huge", "it does not fit")
    with pytest.raises(ValueError, match="'mine/Huge' is not offered: it does not fit"):
        make("mine/Huge")
    assert "mine/Huge" not in list_envs()


def test_listing_imports_no_other_library():
    code = (
        "import sys, hippodrome.envs as envs; envs.list_envs(); "
        "print([name for name in ('gymnax', 'gymnasium', 'matplotlib') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
