"""learning_curve.png, drawn from metrics.jsonl."""

from pathlib import Path

from .metrics import read_metrics


def draw_learning_curve(folder: str | Path, *, title: str = "") -> Path:
    """Draw the episode return over environment steps; with several seeds their mean, in a band from least to most.

    Args:
        folder: of the run.
        title: above the axes.

    Returns:
        The image, `learning_curve.png` in the folder.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in read_metrics(folder) if row.get("episode_return") is not None]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([row["env_steps"] for row in rows], [row["episode_return"] for row in rows], color="tab:blue")
    bands = [(row["env_steps"], _known(row)) for row in rows if len(_known(row)) > 1]
    if bands:
        steps, values = zip(*bands, strict=True)
        axes.fill_between(steps, list(map(min, values)), list(map(max, values)), color="tab:blue", alpha=0.25, lw=0)
        axes.set_ylabel("episode return (mean; band: least to most of the seeds)")
    else:
        axes.set_ylabel("episode return")
    if not rows:
        axes.text(0.5, 0.5, "no episode ended", ha="center", va="center", transform=axes.transAxes)
    axes.set_xlabel("environment steps")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    path = Path(folder) / "learning_curve.png"
    FigureCanvasAgg(figure).print_figure(path, dpi=120)
    return path


def _known(row: dict) -> list[float]:
    values = row.get("per_seed", {}).get("episode_return", [])
    return [value for value in values if value is not None]
