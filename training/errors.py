"""Errors a user can act on; the command line prints their message and returns their exit code."""

import difflib
from collections.abc import Iterable, Sequence


class HippodromeError(Exception):
    """Base of the errors that a message explains fully; no traceback is shown for them.

    `exit_code` is what the command line returns: 1 when the work failed, 2 when the input was bad.
    """

    exit_code = 1


class ConfigError(HippodromeError, ValueError):
    """A configuration, a command line or a config file that breaks rules: all of them, not the first.

    Args:
        errors: one line for each broken rule, naming the field, its value, the rule and the remedy.
        where: the file or command line they are in, if that helps.
    """

    exit_code = 2

    def __init__(self, errors: str | Sequence[str], where: str | None = None):
        self.errors = [errors] if isinstance(errors, str) else list(errors)
        self.where = where
        prefix = f"{where}: " if where else ""
        if len(self.errors) == 1:
            super().__init__(prefix + self.errors[0])
        else:
            super().__init__(
                "\n".join([f"{prefix}{len(self.errors)} errors", *(f"  - {each}" for each in self.errors)])
            )


class RunFolderError(HippodromeError):
    """A run folder that cannot be used: it exists and is not empty, is not a run, or cannot be written."""

    exit_code = 2


class TrainingError(HippodromeError):
    """Training that cannot go on, such as a loss that is not a number."""


class EnvironmentFailure(HippodromeError):
    """An environment on the host that raised an error, or whose process died; the message holds its own traceback."""


class TrainingInterrupted(HippodromeError):
    """Training stopped by a signal, with its state saved; the message says how to resume."""

    exit_code = 130


class CheckpointError(HippodromeError):
    """A checkpoint that cannot be written, read, or fitted to the state it should fill."""


def nearest_name(name: object, known: Iterable[str]) -> str | None:
    """The known name that `name` may have been meant to be, None where none is near."""
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.55)
    return by_lower[near[0]] if near else None


def unknown_name(what: str, name: object, known: Iterable[str]) -> str:
    """`what` 'name' is unknown; did you mean 'nearest'? With no near name (or few names), the known ones are listed."""
    names = sorted(str(each) for each in known)
    near = nearest_name(name, names)
    hint = f"; did you mean {near!r}?" if near else ""
    listing = f" (known: {', '.join(names)})" if not near or len(names) <= 8 else ""
    return f"{what} {name!r} is unknown{hint}{listing}"
