"""The report of a sweep: report.json, a table, the best configuration as YAML, a picture, TensorBoard's hparams.

Trials that trained to the end come first, by the interquartile mean of their final evaluation; then those that a
scheduler stopped, by that of their last training episodes; those that failed come last, with their error.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hippodrome.training.checkpoint.files import read_json, write_json
from hippodrome.training.config import save_config
from hippodrome.training.inspection.picture import write_picture

from .config import SweepConfig, trial_config
from .live import short

_STATES = ("finished", "stopped", "failed", "unfinished")


def write_report(folder: Path, sweep: SweepConfig, overrides: list[str], trials: Mapping[str, Any]) -> dict[str, Any]:
    """Write everything about Ray Tune's trials to the folder of the sweep, and return what report.json holds."""
    rows = sorted((_row(folder, trial) for trial in trials.values()), key=_rank)
    best = next((row for row in rows if row["state"] == "finished"), None)
    report: dict[str, Any] = {
        "folder": str(folder),
        "config": sweep.config,
        "space": sweep.space,
        "trials": rows,
        **{state: sum(row["state"] == state for row in rows) for state in _STATES},
        "best": best,
    }
    write_json(folder / "report.json", report)
    if best is not None:
        save_config(trial_config(sweep, best["values"], overrides), folder / "best.yaml")
    write_picture(folder / "parallel_coordinates.png", draw_parallel_coordinates(sweep, rows))
    write_hparams(folder, rows)
    return report


def report_table(report: Mapping[str, Any]) -> Table:
    """The report as a table for a terminal."""
    table = Table(
        title=f"{report['config']}: {len(report['trials'])} trials",
        caption="score: interquartile mean over seeds; of the final evaluation where finished, else of training",
    )
    for name in ("trial", *report["space"], "state", "env steps", "score", "95 % interval", "seconds"):
        table.add_column(name)
    for row in report["trials"]:
        values = [short(row["values"].get(name)) for name in report["space"]]
        steps = "-" if row["env_steps"] is None else f"{row['env_steps']:,}"
        interval = "-" if row["score"] is None else f"{row['score_low']:.3f} to {row['score_high']:.3f}"
        score = "-" if row["score"] is None else f"{row['score']:.3f}"
        table.add_row(row["trial"], *values, row["state"], steps, score, interval, f"{row['seconds']:.0f}")
    return table


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """What stands below the table: why trials failed, and where the best one is."""
    lines = [f"trial {row['trial']} failed: {row['error']}" for row in report["trials"] if row["state"] == "failed"]
    if report["best"] is not None:
        lines.append(f"best configuration: {report['folder']}/best.yaml; its run: {report['best']['run']}")
    return lines


def _row(folder: Path, trial: Any) -> dict[str, Any]:
    """One trial: its evaluation if it has one, else what it last reported."""
    last = trial.last_result or {}
    finished = bool(last.get("evaluated"))
    error = None
    if trial.status == "ERROR":
        error = _last_line(trial)
    state = {"ERROR": "failed", "TERMINATED": "finished" if finished else "stopped"}.get(trial.status, "unfinished")
    evaluation = read_json(folder / "trials" / trial.trial_id / "evaluation.json") or {}
    return {
        "trial": trial.trial_id,
        "run": str(folder / "trials" / trial.trial_id),
        "values": dict(trial.config),
        "state": state,
        "env_steps": last.get("env_steps"),
        "score": last.get("score"),
        "score_low": last.get("score_low"),
        "score_high": last.get("score_high"),
        "per_seed": evaluation.get("return", {}).get("per_seed"),
        "failed_seeds": evaluation.get("failed_seeds"),
        "failures": trial.num_failures,
        "error": error,
        "seconds": float(last.get("time_total_s") or 0.0),
    }


def _rank(row: Mapping[str, Any]) -> tuple[int, float]:
    score = row["score"]
    return _STATES.index(row["state"]), math.inf if score is None else -score


def _last_line(trial: Any) -> str:
    try:
        lines = Path(trial.error_file).read_text(encoding="utf-8").strip().splitlines()
    except (OSError, TypeError):
        return "unknown"
    return lines[-1] if lines else "unknown"


def draw_parallel_coordinates(sweep: SweepConfig, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG with an axis for each field of the space and one for the score; a line for each trial that has one."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if row["score"] is not None]
    scores = [row["score"] for row in shown] or [0.0, 1.0]
    low, high = min(scores), max(scores)
    axes_of = [_axis(name, spec) for name, spec in sweep.space.items()]
    figure = Figure(figsize=(2.2 * (len(axes_of) + 1), 4.0), layout="constrained")
    axes = figure.add_subplot()
    for row in shown[::-1]:
        height = (row["score"] - low) / ((high - low) or 1.0)
        points = [place(row["values"].get(name)) for name, place, _ in axes_of]
        style = "-" if row["state"] == "finished" else ":"
        axes.plot([*points, height], style, color=colormaps["viridis"](height), alpha=0.8)
    for index, (_, _, ticks) in enumerate(axes_of):
        axes.axvline(index, color="black", lw=0.8)
        for height, text in ticks:
            axes.text(index, height, f" {text}", fontsize=8, va="center")
    axes.axvline(len(axes_of), color="black", lw=0.8)
    for height, value in ((0.0, low), (1.0, high)):
        axes.text(len(axes_of), height, f" {value:.3g}", fontsize=8, va="center")
    axes.set_xticks(range(len(axes_of) + 1), [*sweep.space, "score"], rotation=15, ha="right")
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(axes_of) + 0.4)
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(False)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _axis(name: str, spec: Mapping[str, Any]) -> tuple[str, Any, list[tuple[float, str]]]:
    """A field, the height of a value on its axis from 0 to 1, and what stands at the axis."""
    kind, values = next(iter(spec.items()))
    if kind in ("grid", "choice"):
        names = [str(each) for each in values]
        heights = {each: index / max(len(names) - 1, 1) for index, each in enumerate(names)}
        return name, lambda value: heights.get(str(value), 0.5), [(height, each) for each, height in heights.items()]
    low, high = values
    if kind == "log_uniform":
        span = math.log(high / low)
        return name, lambda value: math.log(value / low) / span, [(0.0, short(float(low))), (1.0, short(float(high)))]
    return name, lambda value: (value - low) / (high - low), [(0.0, short(low)), (1.0, short(high))]


def write_hparams(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """What TensorBoard's HPARAMS tab shows: the values of each trial beside its score."""
    from tensorboardX import SummaryWriter

    target = folder / "hparams"
    for row in rows:
        if row["score"] is None:
            continue
        plain = (int, float, str)
        values = {name: value if isinstance(value, plain) else str(value) for name, value in row["values"].items()}
        with SummaryWriter(str(target)) as writer:
            writer.add_hparams(values, {"score": row["score"]}, name=row["trial"], global_step=row["env_steps"])
