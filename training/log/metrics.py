"""The log of a run: metrics.jsonl and TensorBoard events.

Legend: `S` seeds.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hippodrome.training.errors import RunFolderError

from .events import EventWriter, cannot_write

METRICS_FILE = "metrics.jsonl"
SUMMED = frozenset({"episodes"})


class MetricsWriter:
    """Appends log points to metrics.jsonl, and to TensorBoard events where asked.

    Each line is one strict JSON object (nan and infinity are null), written whole and flushed. With several seeds an
    array `[S]` becomes its mean over seeds (its sum for `episodes`), and the values stand in `per_seed`.

    Args:
        folder: of the run; it exists.
        tensorboard: also write events there.
        resume_step: env_steps of the checkpoint that the run goes on from; later lines, and a half-written last one,
            are removed, so that no step is logged twice. None for a new run.

    Raises:
        RunFolderError: if the folder cannot be written.
        TrainingError: if the events cannot be written.
    """

    def __init__(self, folder: str | Path, tensorboard: bool, resume_step: int | None = None):
        self.path = Path(folder) / METRICS_FILE
        kept = read_metrics(folder, up_to=resume_step) if resume_step is not None else []
        try:
            _replace_lines(self.path, kept)
            # Unbuffered: after a failed write nothing is left that closing would try to write again.
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be written: {error.strerror}") from error
        self._events = EventWriter(folder, resume_step) if tensorboard else None

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Append one log point and return it as it stands in the file.

        Args:
            values: numbers, arrays of one number, or arrays `[S]`; `env_steps` is the point's position.

        Raises:
            TrainingError: if it cannot be written, as on a full disk.
        """
        row = log_point(values)
        try:
            self._file.write(f"{json.dumps(row, allow_nan=False)}\n".encode())
        except OSError as error:
            raise cannot_write(self.path.parent, error) from error
        self._write_events(row)
        return row

    def close(self) -> None:
        """Close the files; what was written is flushed already."""
        self._file.close()
        if self._events is not None:
            self._events.close()

    def _write_events(self, row: dict[str, Any]) -> None:
        if self._events is None:
            return
        step = row["env_steps"]
        scalars = {name: value for name, value in row.items() if name not in ("env_steps", "per_seed")}
        for name, values in row.get("per_seed", {}).items():
            scalars |= {f"per_seed/{name}/{index}": value for index, value in enumerate(values)}
        self._events.write({name: value for name, value in scalars.items() if isinstance(value, int | float)}, step)


def log_point(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as strict JSON: arrays `[S]` become means (sums for `episodes`) and move to `per_seed`."""
    row: dict[str, Any] = {}
    per_seed: dict[str, list[Any]] = {}
    for name, value in values.items():
        array = np.asarray(value)
        if array.ndim == 0:
            row[name] = _json_number(array.item())
            continue
        per_seed[name] = [_json_number(each) for each in array.tolist()]
        known = [each for each in per_seed[name] if each is not None]
        if name in SUMMED:
            row[name] = sum(known)
        else:
            row[name] = math.fsum(known) / len(known) if known else None
    return {**row, "per_seed": per_seed} if per_seed else row


def summarize_updates(recent: list[dict[str, Any]]) -> dict[str, Any]:
    """The metrics of several updates as one log point: episodes summed, their means weighted, the rest averaged."""
    stacked = {name: np.stack([each[name] for each in recent]) for name in recent[0]}
    episodes = stacked["episodes"]
    total = episodes.sum(axis=0)
    row: dict[str, Any] = {"episodes": total}
    for name in ("episode_return", "episode_length"):
        weighted = np.where(episodes > 0, stacked[name] * episodes, 0.0).sum(axis=0)
        row[name] = np.where(total > 0, weighted / np.maximum(total, 1), np.nan)
    counted = {"episodes", "episode_return", "episode_length", "failed_update", "failed_metric"}
    return row | {name: values.mean(axis=0) for name, values in stacked.items() if name not in counted}


def read_metrics(folder: str | Path, *, up_to: int | None = None) -> list[dict[str, Any]]:
    """The log points of a run, oldest first, without a half-written last line; those with env_steps <= `up_to`."""
    path = Path(folder) / METRICS_FILE
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "env_steps" in row and (up_to is None or row["env_steps"] <= up_to):
            rows.append(row)
    return rows


def _replace_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
