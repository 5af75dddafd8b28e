"""What commands share: the words of a command, and how a result is printed."""

import argparse
import json
from collections.abc import Callable
from typing import Any


def leading_words(arguments: list[str], most: int) -> tuple[list[str], list[str]]:
    """The words before the first flag, at most so many, and the rest."""
    count = 0
    while count < min(most, len(arguments)) and not arguments[count].startswith("-"):
        count += 1
    return arguments[:count], arguments[count:]


def own_parser(prog: str) -> argparse.ArgumentParser:
    """A parser of a command's own flags; all others, `--help` too, are left to the configuration's parser."""
    return argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False, usage=f"{prog} --help shows all")


def print_result(result: dict[str, Any], as_json: bool, table: Callable[[dict[str, Any]], Any]) -> None:
    """Print a result as JSON, or as the table that `table` makes of it."""
    if as_json:
        print(json.dumps(result, indent=1, allow_nan=False))
        return
    from hippodrome.training.log.progress import table_console

    table_console().print(table(result))
