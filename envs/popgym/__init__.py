"""POPGym's tasks in JAX: ids `popgym/NameEasy`, `...Medium`, `...Hard`, and `popgym-paper/...` for paper-era variants."""

from hippodrome.envs.registry import register_env

_FAMILIES: dict[str, tuple[str, dict[str, dict]]] = {
    "RepeatPrevious": (
        "repeat_previous:RepeatPrevious",
        {
            "Easy": {"num_decks": 1, "k": 4},
            "Medium": {"num_decks": 2, "k": 32},
            "Hard": {"num_decks": 3, "k": 64},
        },
    ),
}
# Families whose published numbers belong to a slightly different task (docs/popgym.md).
_PAPER_ERA = ("RepeatPrevious",)

for _family, (_address, _levels) in _FAMILIES.items():
    for _level, _kwargs in _levels.items():
        register_env(f"popgym/{_family}{_level}", f"{__name__}.{_address}", **_kwargs)
        if _family in _PAPER_ERA:
            register_env(f"popgym-paper/{_family}{_level}", f"{__name__}.{_address}", **_kwargs, paper_era=True)
