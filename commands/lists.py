"""`hippodrome list`."""

import argparse
import json

LISTS = ("envs", "memories", "agents", "configs", "suites", "sweeps")


def list_names(arguments: list[str]) -> int:
    """Show the names there are. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="hippodrome list", description="Show the names that there are.")
    parser.add_argument("what", metavar="{" + ",".join(LISTS) + "}")
    parser.add_argument("--import", dest="modules", nargs="+", action="extend", default=[], help="packages to import")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    known = parser.parse_args(arguments)
    if known.what not in LISTS:
        from hippodrome.training.errors import ConfigError, unknown_name

        raise ConfigError(unknown_name("list", known.what, LISTS))
    if known.what in ("envs", "memories", "agents"):
        from hippodrome.training.config.plugins import load_plugins

        load_plugins(known.modules)
    names = _names(known.what)
    print(json.dumps(names) if known.json else "\n".join(names))
    return 0


def _names(what: str) -> list[str]:
    if what == "envs":
        from hippodrome.envs import list_envs

        return list_envs()
    if what == "memories":
        from hippodrome.memory import list_memories

        return list_memories()
    if what == "agents":
        from hippodrome.agents import list_agents

        return list_agents()
    if what == "configs":
        from hippodrome.training.config import list_configs

        return list_configs()
    from hippodrome.training.config import list_suites, list_sweeps

    return list_suites() if what == "suites" else list_sweeps()
