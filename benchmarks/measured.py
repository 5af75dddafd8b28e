"""What the resumable benchmarks measured, kept in files that are part of the repository: the numbers behind tables."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Results:
    """Results by name, in a JSON file with a line for each.

    Attributes:
        found: what there is.
    """

    def __init__(self, path: Path):
        self.path = path
        self.found: dict[str, Any] = self._read()

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """The result of that name; made and kept first where there is none."""
        if name not in self.found:
            self.add(name, make())
        return self.found[name]

    def add(self, name: str, result: Any) -> None:
        """Keep a result; the file is replaced in one piece."""
        self.found = {**self._read(), name: result}  # another command may have added some
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(self.found.items())]
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        os.replace(temporary, self.path)

    def _read(self) -> dict[str, Any]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}
