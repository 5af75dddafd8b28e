"""How each family's hidden state enters popgym, and the best play for someone who sees that state.

States are ours, one environment's, as NumPy arrays.
"""

import jax
import numpy as np

from .oracle import Family, ScriptedRandom, card_order


def _cards(field: str, attribute: str) -> Family:
    """The script of a family that deals `state.<field>` from one deck, by popgym's `attribute` of a card."""

    def script(oracle, state, step_keys) -> None:
        order = card_order(getattr(oracle.deck, attribute), getattr(state, field))
        # popgym deals from the end of its deck.
        oracle.np_random = ScriptedRandom(orders=[order[::-1]])

    return script


def _autoencode_actions(env, state):
    return np.concatenate([np.zeros(env.num_cards - 1, int), state.suits[::-1]])


def _repeat_previous_actions(env, state):
    answers = np.zeros(env.num_cards - 1, int)
    answers[env.lag :] = state.suits[: env.num_cards - 1 - env.lag]
    return answers


def _higher_lower_actions(env, state):
    return np.where(np.diff(state.ranks) > 0, 0, 1)


def _higher_lower_return(env, state):
    return np.count_nonzero(np.diff(state.ranks)) / env.num_cards


def _count_recall_script(oracle, state, step_keys):
    orders = [card_order(oracle.deck_idx_type, kinds)[::-1] for kinds in (state.dealt, state.queried)]
    oracle.np_random = ScriptedRandom(orders=orders)


def _count_recall_actions(env, state):
    dealt = state.dealt[None, :] == np.arange(env.num_kinds)[:, None]
    counts = np.cumsum(dealt, axis=1)
    return counts[state.queried, np.arange(env.num_cards)][:-1]


def _battleship_script(oracle, state, step_keys):
    oracle.place_ship = lambda board, size: state.afloat.astype(np.int8)


def _battleship_actions(env, state):
    return np.argwhere(state.afloat)


def _concentration_script(oracle, state, step_keys):
    oracle.np_random = ScriptedRandom(orders=[card_order(oracle.deck_idx_type, state.kinds)])


def _concentration_actions(env, state):
    return np.concatenate([np.flatnonzero(state.kinds == kind) for kind in range(env.num_kinds)])


def _bandit_script(oracle, state, step_keys):
    draws = np.asarray(jax.vmap(jax.random.uniform)(step_keys))
    oracle.np_random = ScriptedRandom(randoms=[state.chances, *draws])


def _bandit_actions(env, state):
    return np.full(env.episode_length, state.chances.argmax())


FAMILIES = {
    "Autoencode": Family(_cards("suits", "suits_idx"), _autoencode_actions, lambda env, state: 1.0),
    "Battleship": Family(_battleship_script, _battleship_actions, lambda env, state: 1.0),
    "Concentration": Family(_concentration_script, _concentration_actions, lambda env, state: 1.0),
    "CountRecall": Family(_count_recall_script, _count_recall_actions, lambda env, state: 1.0),
    "HigherLower": Family(_cards("ranks", "ranks_idx"), _higher_lower_actions, _higher_lower_return),
    "MultiarmedBandit": Family(_bandit_script, _bandit_actions),
    "RepeatFirst": Family(
        _cards("suits", "suits_idx"),
        lambda env, state: np.full(env.num_cards - 1, state.suits[0]),
        lambda env, state: 1.0,
    ),
    "RepeatPrevious": Family(_cards("suits", "suits_idx"), _repeat_previous_actions, lambda env, state: 1.0),
}
