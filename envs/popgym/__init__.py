"""POPGym's tasks in JAX: `popgym/NameEasy`, `Medium` and `Hard`, and `popgym-paper/...` as in the published tables."""

from hippodrome.envs.registry import register_env

# Family -> its class, and the arguments of each difficulty.
_FAMILIES: dict[str, tuple[str, dict[str, dict]]] = {
    "Autoencode": (
        "autoencode:Autoencode",
        {"Easy": {"num_decks": 1}, "Medium": {"num_decks": 2}, "Hard": {"num_decks": 3}},
    ),
    "Battleship": (
        "battleship:Battleship",
        {"Easy": {"board_size": 8}, "Medium": {"board_size": 10}, "Hard": {"board_size": 12}},
    ),
    "Concentration": (
        "concentration:Concentration",
        {
            "Easy": {"num_decks": 1, "deck_type": "colors"},
            "Medium": {"num_decks": 2, "deck_type": "colors"},
            "Hard": {"num_decks": 1, "deck_type": "ranks"},
        },
    ),
    "CountRecall": (
        "count_recall:CountRecall",
        {
            "Easy": {"num_decks": 1, "deck_type": "colors"},
            "Medium": {"num_decks": 2, "deck_type": "suits"},
            "Hard": {"num_decks": 4, "deck_type": "ranks"},
        },
    ),
    "HigherLower": (
        "higher_lower:HigherLower",
        {"Easy": {"num_decks": 1}, "Medium": {"num_decks": 2}, "Hard": {"num_decks": 3}},
    ),
    "LabyrinthEscape": (
        "labyrinth:LabyrinthEscape",
        {"Easy": {"maze_size": 10}, "Medium": {"maze_size": 14}, "Hard": {"maze_size": 18}},
    ),
    "LabyrinthExplore": (
        "labyrinth:LabyrinthExplore",
        {"Easy": {"maze_size": 10}, "Medium": {"maze_size": 14}, "Hard": {"maze_size": 18}},
    ),
    "MineSweeper": (
        "minesweeper:MineSweeper",
        {
            "Easy": {"board_size": 4, "num_mines": 2},
            "Medium": {"board_size": 6, "num_mines": 6},
            "Hard": {"board_size": 8, "num_mines": 10},
        },
    ),
    "MultiarmedBandit": (
        "multiarmed_bandit:MultiarmedBandit",
        {
            "Easy": {"num_bandits": 10, "episode_length": 200},
            "Medium": {"num_bandits": 20, "episode_length": 400},
            "Hard": {"num_bandits": 30, "episode_length": 600},
        },
    ),
    "NoisyPositionOnlyCartPole": (
        "cartpole:CartPole",
        {"Easy": {"noise_sigma": 0.1}, "Medium": {"noise_sigma": 0.2}, "Hard": {"noise_sigma": 0.3}},
    ),
    "NoisyPositionOnlyPendulum": (
        "pendulum:Pendulum",
        {"Easy": {"noise_sigma": 0.1}, "Medium": {"noise_sigma": 0.2}, "Hard": {"noise_sigma": 0.3}},
    ),
    "PositionOnlyCartPole": (
        "cartpole:CartPole",
        {"Easy": {"episode_length": 200}, "Medium": {"episode_length": 400}, "Hard": {"episode_length": 600}},
    ),
    "PositionOnlyPendulum": (
        "pendulum:Pendulum",
        {"Easy": {"episode_length": 200}, "Medium": {"episode_length": 150}, "Hard": {"episode_length": 100}},
    ),
    "RepeatFirst": (
        "repeat_first:RepeatFirst",
        {"Easy": {"num_decks": 1}, "Medium": {"num_decks": 8}, "Hard": {"num_decks": 16}},
    ),
    "RepeatPrevious": (
        "repeat_previous:RepeatPrevious",
        {
            "Easy": {"num_decks": 1, "k": 4},
            "Medium": {"num_decks": 2, "k": 32},
            "Hard": {"num_decks": 3, "k": 64},
        },
    ),
    "VelocityOnlyCartPole": (
        "cartpole:CartPole",
        {
            "Easy": {"episode_length": 200, "observed": "velocity"},
            "Medium": {"episode_length": 400, "observed": "velocity"},
            "Hard": {"episode_length": 600, "observed": "velocity"},
        },
    ),
}
# Families of the published tables, and the arguments that make the task theirs where it has changed (docs/popgym.md).
_PAPER_ERA: dict[str, dict] = {
    "Autoencode": {},
    "Battleship": {},
    "Concentration": {},
    "CountRecall": {"paper_era": True},
    "HigherLower": {},
    "LabyrinthEscape": {},
    "LabyrinthExplore": {},
    "MineSweeper": {"paper_era": True},
    "MultiarmedBandit": {},
    "NoisyPositionOnlyCartPole": {},
    "NoisyPositionOnlyPendulum": {},
    "PositionOnlyCartPole": {},
    "PositionOnlyPendulum": {},
    "RepeatFirst": {},
    "RepeatPrevious": {"paper_era": True},
}

for _family, (_address, _levels) in _FAMILIES.items():
    for _level, _kwargs in _levels.items():
        register_env(f"popgym/{_family}{_level}", f"{__name__}.{_address}", **_kwargs)
        if _family in _PAPER_ERA:
            _paper = _kwargs | _PAPER_ERA[_family]
            register_env(f"popgym-paper/{_family}{_level}", f"{__name__}.{_address}", **_paper)
