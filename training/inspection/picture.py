"""inspection.png: eigenvalues in the unit disc, time constants and memory horizons, before and after training."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from hippodrome.training.checkpoint.files import flush_folder

_COLOURS = {"before": "tab:gray", "after": "tab:blue"}


def draw_inspection(result: dict[str, Any]) -> bytes:
    """Draw the result of `inspect_run`: a row for each layer that has eigenvalues, then the gradient by lag.

    Returns:
        A PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = [layer for layer in result["layers"] if layer["after"] is not None]
    figure = Figure(figsize=(9, 3.2 * (len(layers) + 1)), layout="constrained")
    grid = figure.add_gridspec(len(layers) + 1, 2, width_ratios=(1, 1.6))
    several = len(result["horizons"]) > 1
    for row, layer in enumerate(layers):
        name = f"{layer['memory']}/{layer['name']}" if several else layer["name"]
        _draw_disc(figure.add_subplot(grid[row, 0]), layer, f"{name} ({layer['kind']}, {layer['source']})")
        _draw_time_constants(figure.add_subplot(grid[row, 1]), layer)
    _draw_horizons(figure.add_subplot(grid[-1, :]), result["horizons"])
    figure.suptitle(f"{result['env']}, {result['memory']}: update {result['update']}")
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def write_picture(path: Path, png: bytes) -> None:
    """Write an image, whole or not at all, flushed to the disk.

    Raises:
        OSError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("wb") as file:
        file.write(png)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    flush_folder(path.parent)


def _draw_disc(axes: Any, layer: dict[str, Any], title: str) -> None:
    circle = np.exp(2j * np.pi * np.linspace(0, 1, 200))
    axes.plot(circle.real, circle.imag, color="black", lw=0.6)
    for when, marker in (("before", "o"), ("after", ".")):
        points = _points(layer[when])
        colour = _COLOURS[when]
        style = dict(facecolors="none" if marker == "o" else colour, edgecolors=colour, marker=marker, s=12, lw=0.6)
        axes.scatter(points.real, points.imag, label=when, **style)
    axes.set_aspect("equal")
    axes.set_title(title, fontsize="small")
    axes.set_xlabel("Re λ", fontsize="small")
    axes.set_ylabel("Im λ", fontsize="small")
    axes.legend(fontsize="x-small", loc="lower left")


def _draw_time_constants(axes: Any, layer: dict[str, Any]) -> None:
    """Shares of the sampled eigenvalues by time constant; those that do not decay are counted in the legend."""
    constants = {when: _time_constants(layer[when]) for when in _COLOURS}
    finite = {when: each[np.isfinite(each) & (each > 0)] for when, each in constants.items()}
    values = np.concatenate(list(finite.values()))
    if values.size:
        low, high = np.log10(values.min()), np.log10(values.max())
        bins = np.logspace(low - 0.05, high + 0.05, 31)
        for when, each in finite.items():
            total = max(constants[when].size, 1)
            endless = np.isinf(constants[when]).sum() / total
            label = f"{when}, {endless:.0%} without end" if endless else when
            # The outline on top of the filled bars shows where nothing changed too.
            style = dict(histtype="step", color="black") if when == "before" else dict(color=_COLOURS[when], zorder=0)
            axes.hist(each, bins, weights=np.full(each.size, 1 / total), label=label, **style)
        axes.set_xscale("log")
        axes.legend(fontsize="x-small")
    else:
        axes.text(0.5, 0.5, "no finite time constant", ha="center", va="center", transform=axes.transAxes)
    axes.set_xlabel("time constant -1 / log|λ| (steps)", fontsize="small")
    axes.set_ylabel("share of eigenvalues", fontsize="small")
    axes.grid(alpha=0.3)


def _draw_horizons(axes: Any, horizons: dict[str, Any]) -> None:
    """The gradient by lag on a logarithmic scale, which shows no zeros: a memory of nothing is one point."""
    shown = []
    for (label, horizon), style in zip(horizons.items(), ("-", "--"), strict=False):
        for when, colour in _COLOURS.items():
            gradient = np.array([np.nan if each is None else each for each in horizon[when]["gradient"]], float)
            gradient[gradient <= 0] = np.nan
            lag = horizon[when]["lag_at_mass"]["0.9"]
            text = f"{when}, 90 % within lag {lag}" if lag is not None else when
            text = f"{label} {text}" if len(horizons) > 1 else text
            axes.plot(gradient, style, marker=".", ms=3, lw=1, color=colour, label=text)
            shown.append(gradient)
    if np.isfinite(np.concatenate(shown)).any():
        axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("lag (steps)")
    axes.set_ylabel("|d output / d input|")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)


def _points(spectrum: dict[str, Any]) -> np.ndarray:
    """The sampled eigenvalues that are numbers."""
    pairs = [each for each in spectrum["sample"] if None not in each]
    return np.array([complex(*each) for each in pairs], complex)


def _time_constants(spectrum: dict[str, Any]) -> np.ndarray:
    modulus = np.abs(_points(spectrum))
    with np.errstate(divide="ignore"):
        return np.where(modulus >= 1, np.inf, -1.0 / np.log(modulus))
