"""What makes these tasks POPGym's: solvable from observations, as long as they should be, reset as they should be.

Each mistake known from an earlier JAX port (docs/popgym.md) has a test here or in the modules beside this one.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import popgym.envs
import pytest

from hippodrome.envs import VectorEnv, list_envs, make
from hippodrome.envs.popgym.battleship import SHIP_CELLS

from .oracle import LEVELS, begin, compiled, fresh_keys, roll

# Steps of an episode that nothing ends early.
LENGTHS = {
    "Autoencode": (103, 207, 311),
    "Battleship": (64, 100, 144),
    "Concentration": (104, 208, 104),
    "CountRecall": (51, 103, 207),
    "HigherLower": (51, 103, 155),
    "MultiarmedBandit": (200, 400, 600),
    "NoisyPositionOnlyCartPole": (200, 200, 200),
    "NoisyPositionOnlyPendulum": (200, 200, 200),
    "PositionOnlyCartPole": (200, 400, 600),
    "PositionOnlyPendulum": (200, 150, 100),
    "RepeatFirst": (51, 415, 831),
    "RepeatPrevious": (51, 103, 155),
    "VelocityOnlyCartPole": (200, 400, 600),
}
PUBLISHED = sorted(set(LENGTHS) - {"VelocityOnlyCartPole"})


def watch(env, key):
    """One episode whose observations no action changes: `(observations [T + 1], score)`, `score(actions) -> return`."""
    first, state = compiled(env.reset_env)(key, env.default_params)
    state = jax.tree.map(lambda leaf: leaf[None], state)
    length = env.default_params.max_steps_in_episode
    step_keys = fresh_keys(0, 1, length)

    def play(actions):
        observation, reward, terminated, _ = roll(env, state, np.asarray(actions)[None], step_keys)
        assert terminated[0].tolist() == [False] * (length - 1) + [True]
        return jax.tree.map(lambda leaf: leaf[0], observation), float(reward.sum())

    following, _ = play(np.zeros(length, int))
    observations = jax.tree.map(lambda one, rest: np.concatenate([np.asarray(one)[None], rest]), first, following)
    return observations, lambda actions: play(actions)[1]


def autoencode_answers(env, observations):
    """Watch in mode 1; from the first mode 0 on, recite what was seen, last first."""
    seen, answers = [], []
    for mode, suit in zip(*observations, strict=True):
        if mode == 1 or len(seen) < env.num_cards:
            seen.append(suit)
        answers.append(0 if mode == 1 else seen[env.num_cards - 1 - (len(answers) - (env.num_cards - 1))])
    return answers[:-1]


def count_recall_answers(env, observations):
    counts, answers = np.zeros(env.num_kinds, int), []
    for dealt, queried in observations[:-1]:
        counts[dealt] += 1
        answers.append(counts[queried])
    assert env.action_space(env.default_params).contains(np.array(answers)).all()
    return answers


def repeat_first_answers(env, observations):
    return np.full(len(observations) - 1, observations[0])


def repeat_previous_answers(env, observations):
    return np.concatenate([np.zeros(env.k - 1, int), observations[: len(observations) - env.k]])


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("AutoencodeEasy", autoencode_answers),
        ("CountRecallMedium", count_recall_answers),
        ("RepeatFirstEasy", repeat_first_answers),
        ("RepeatPreviousEasy", repeat_previous_answers),
    ],
)
def test_a_perfect_memory_of_the_observations_returns_one(name, answers):
    env = make(f"popgym/{name}")
    observations, score = watch(env, jax.random.key(5))
    np.testing.assert_allclose(score(answers(env, observations)), 1.0, atol=1e-5)


def test_repeat_previous_lag_is_one_longer_in_the_published_task():
    env, paper = make("popgym/RepeatPreviousEasy"), make("popgym-paper/RepeatPreviousEasy")
    observations, score = watch(paper, jax.random.key(5))
    answers = repeat_previous_answers(env, observations)
    assert score(answers) < 0.5
    assert score([0, *answers[:-1]]) > 0.95


@pytest.mark.parametrize("paper", [False, True])
def test_count_recall_answers_offered(paper):
    suite = "popgym-paper" if paper else "popgym"
    envs = [make(f"{suite}/CountRecall{level}") for level in LEVELS]
    offered = [env.action_space(env.default_params).n for env in envs]
    assert offered == ([26, 26, 16] if paper else [27, 27, 17])


@pytest.mark.parametrize("family", LENGTHS)
def test_episode_lengths_and_popgym_has_no_other(family):
    lengths = [make(f"popgym/{family}{level}").default_params.max_steps_in_episode for level in LEVELS]
    assert tuple(lengths) == LENGTHS[family]
    assert all(hasattr(popgym.envs, f"{family}{level}") for level in LEVELS)


def test_ids():
    ids = set(list_envs("popgym"))
    assert {f"popgym/{family}{level}" for family in LENGTHS for level in LEVELS} <= ids
    paper = set(list_envs("popgym-paper"))
    assert {f"popgym-paper/{family}{level}" for family in PUBLISHED for level in LEVELS} <= paper


@pytest.mark.parametrize("family", [family for family in PUBLISHED if family not in ("CountRecall", "RepeatPrevious")])
def test_published_tasks_that_never_changed_are_the_same_ones(family):
    for level in LEVELS:
        ours, paper = make(f"popgym/{family}{level}"), make(f"popgym-paper/{family}{level}")
        assert type(ours) is type(paper)
        assert str(vars(ours)) == str(vars(paper))


@pytest.mark.parametrize(("name", "truncates"), [("RepeatFirstEasy", False), ("PositionOnlyPendulumHard", True)])
def test_auto_reset_starts_afresh(name, truncates):
    env = make(f"popgym/{name}")
    length = env.default_params.max_steps_in_episode
    vector = VectorEnv(env, num_steps=length)
    state = compiled(vector.reset)(fresh_keys(6, 4))
    start = state.env_state
    action = jnp.ones((4, *vector.action_space.shape), vector.action_space.dtype)

    def env_step(state, _):
        state, outcome = vector.step(state, action)
        return state, (outcome, state.timestep)

    state, (outcome, timestep) = compiled(lambda state: jax.lax.scan(env_step, state, length=length))(state)
    last = jnp.arange(length)[:, None] == length - 1
    np.testing.assert_array_equal(outcome.truncated, jnp.broadcast_to(last & truncates, (length, 4)))
    np.testing.assert_array_equal(outcome.terminated, jnp.broadcast_to(last & (not truncates), (length, 4)))
    np.testing.assert_array_equal(timestep.reset, outcome.ended)
    np.testing.assert_array_equal(outcome.episode_length[-1], length)
    np.testing.assert_allclose(outcome.episode_return[-1], outcome.reward.sum(0), atol=1e-5)
    null = 0.0 if truncates else -1
    assert (timestep.previous_action[-1] == null).all() and (timestep.previous_action[:-1] == 1).all()
    assert (timestep.previous_reward[-1] == 0).all() and (timestep.previous_reward[:-1] == outcome.reward[:-1]).all()
    assert (state.env_state.time == 0).all()
    again = [jnp.array_equal(*leaves) for leaves in zip(*map(jax.tree.leaves, (start, state.env_state)), strict=True)]
    assert not all(again)


def test_start_states_are_drawn_for_as_many_episodes_as_can_end():
    assert make("popgym/BattleshipEasy").reset_pool_size(2 * SHIP_CELLS + 1) == 3
    assert make("popgym/ConcentrationEasy").reset_pool_size(52) == 1
    assert make("popgym/RepeatFirstHard").reset_pool_size(832) == 2
    assert make("popgym/AutoencodeMedium").reset_pool_size(207) == 1


def test_ships_lie_where_popgym_puts_them():
    env, oracle = make("popgym/BattleshipEasy"), popgym.envs.BattleshipEasy()
    num_boards = 3000
    keys = fresh_keys(7, num_boards)
    _, states = begin(env, keys)
    ours = np.asarray(states.afloat)
    oracle.reset(seed=7)
    theirs = np.stack([(oracle.reset(), oracle.board)[1] for _ in range(num_boards)])
    assert (ours.sum((1, 2)) == SHIP_CELLS).all()
    # Each cell's frequency over 3,000 boards is within 0.007 (one sigma) of its own.
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.05)
    np.testing.assert_allclose(ours.mean(0), ours.mean(0).T, atol=0.05)


def test_bandit_chances_are_uniform():
    env = make("popgym/MultiarmedBanditHard")
    keys = fresh_keys(8, 2000)
    _, states = begin(env, keys)
    deciles = np.quantile(states.chances, np.linspace(0.1, 0.9, 9))
    np.testing.assert_allclose(deciles, np.linspace(0.1, 0.9, 9), atol=0.01)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("AutoencodeEasy", {"num_decks": 0}, "num_decks=0 must be at least 1"),
        ("BattleshipEasy", {"board_size": 7}, "board_size=7 must be at least 8"),
        ("ConcentrationEasy", {"deck_type": "suits"}, "leaves a card without a partner"),
        ("CountRecallEasy", {"deck_type": "jokers"}, "must be one of colors, suits, ranks"),
        ("MultiarmedBanditEasy", {"num_bandits": 0}, "num_bandits=0"),
        ("PositionOnlyCartPoleEasy", {"observed": "both"}, "must be 'position' or 'velocity'"),
        ("PositionOnlyPendulumEasy", {"episode_length": 0}, "episode_length=0 must be at least 1"),
        ("NoisyPositionOnlyPendulumEasy", {"noise_sigma": -1.0}, "must not be negative"),
    ],
)
def test_impossible_arguments_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(f"popgym/{name}", **options)


def test_docs_tabulate_every_family():
    page = (Path(__file__).parents[3] / "docs" / "popgym.md").read_text()
    for env_id in list_envs("popgym"):
        family = env_id.removeprefix("popgym/").removesuffix("Easy").removesuffix("Medium").removesuffix("Hard")
        assert f"\n| {family} |" in page
        for length in LENGTHS.get(family, ()):
            row = page[page.index(f"\n| {family} |") + 1 :].partition("\n")[0]
            assert str(length) in row
