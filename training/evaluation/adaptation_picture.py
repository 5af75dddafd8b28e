"""adaptation-SPLIT.png: return by trial, with its interval."""

import io
from typing import Any

_COLOURS = {"deterministic": "tab:blue", "sampled": "tab:orange"}


def draw_adaptation(result: dict[str, Any]) -> bytes:
    """Draw the result of `evaluate_adaptation`: the curve over all tasks, and one for each member of a mixture.

    Returns:
        A PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = ["all", *result["deterministic"]["tasks"]]
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.5 * columns, 3.2 * rows), layout="constrained")
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        for choice, colour in _COLOURS.items():
            part = result[choice] if name == "all" else result[choice]["tasks"].get(name)
            if part is None:
                continue
            keys = ("trial", "mean", "low", "high")
            trials, means, lows, highs = ([point[key] for point in part["curve"]] for key in keys)
            axes.plot(trials, means, color=colour, label=choice)
            axes.fill_between(trials, lows, highs, color=colour, alpha=0.25, lw=0)
            if "oracle" in part and choice == "deterministic":
                axes.axhline(part["oracle"], color="black", ls="--", lw=0.8, label="oracle")
        if result["trials"] > result["trained_trials"]:
            axes.axvline(result["trained_trials"] + 0.5, color="gray", ls=":", label="trained until here")
        axes.set_title(f"{result['env']}, {result['split']}" if name == "all" else name, fontsize=9)
        axes.set_xlabel("trial")
        axes.set_ylabel("return")
        axes.grid(alpha=0.3)
        if index == 0:
            axes.legend(fontsize=8)
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()
