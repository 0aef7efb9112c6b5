"""Plots of a run, its loss curves, confusion matrix and other curves, and of effects between runs."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from palm_jax.run_directory import RunDirectory
from palm_jax.training.writers import read_jsonl

MOST_CLASSES = 100  # in a matrix whose names can be read
_LONGEST_NAME = 40  # characters


def plot_losses(model_dir: Path, unit: str = 'loss') -> None:
    """Plot training and validation loss by step, from MODEL_DIR/metrics.jsonl to MODEL_DIR/loss.png.

    Args:
      model_dir: directory of the run.
      unit: label of the loss axis.
    """
    files = RunDirectory(model_dir)
    records = read_jsonl(files.metrics)
    with _axes(files.loss_plot, (7, 4), dpi=120) as axes:
        for name, label, style in (('train/loss', 'training', '-'), ('validation/loss', 'validation', 'o-')):
            points = [(record['step'], record[name]) for record in records if name in record]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
        axes.set(xlabel='step', ylabel=unit, title=_short(model_dir.name))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()


def plot_confusion(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Plot the confusion matrix: one row per true class, as fractions of the row, with counts for up to 20 classes.

    Args:
      labels: true classes, int [E], indices into `names`.
      predicted: predicted classes, int [E].
      names: names of at most `MOST_CLASSES` classes.
      path: file to write.
    """
    counts = confusion_matrix(labels, predicted, labels=np.arange(len(names)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(4 + 0.22 * len(names), 20)
    with _axes(path, (size, size), dpi=110) as axes:
        image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
        ticks, small = np.arange(len(names)), 6 if len(names) > 30 else 8
        axes.set_xticks(ticks, [_short(name) for name in names], rotation=90, fontsize=small)
        axes.set_yticks(ticks, [_short(name) for name in names], fontsize=small)
        axes.set(xlabel='predicted', ylabel='true')
        if len(names) <= 20:
            for i, j in np.ndindex(*counts.shape):
                color = 'w' if shares[i, j] > 0.5 else 'k'
                axes.text(j, i, counts[i, j], ha='center', va='center', fontsize=small, color=color)
        axes.figure.colorbar(image, shrink=0.6, label='share of the true class')


def plot_effects(effects: Sequence[tuple[str, float, float, float]], label: str, path: Path) -> None:
    """Plot effects with their intervals, one below the other, beside the line of no effect.

    Args:
      effects: name, mean, and lower and upper end of the interval of each; NaN where there is no interval.
      label: label of the axis.
      path: file to write.
    """
    with _axes(path, (7, 1.2 + 0.35 * len(effects)), dpi=120) as axes:
        places = np.arange(len(effects))[::-1]
        for place, (_, mean, lower, upper) in zip(places, effects, strict=True):
            axes.plot(mean, place, 'o', color='tab:blue')
            axes.plot([lower, upper], [place, place], color='tab:blue')
        axes.axvline(0, color='gray', linewidth=1)
        axes.set_yticks(places, [_short(name) for name, *_ in effects])
        axes.set(xlabel=label)
        axes.grid(alpha=0.3, axis='x')


def plot_curves(x: Sequence[float], curves: Mapping[str, Sequence[float]], label: str, path: Path) -> None:
    """Plot values by name over x.

    Args:
      x: positions.
      curves: values at the positions, by name.
      label: label of x.
      path: file to write.
    """
    with _axes(path, (7, 4), dpi=120) as axes:
        for name, values in curves.items():
            axes.plot(x, values, 'o-', label=_short(name), markersize=4)
        axes.set(xlabel=label)
        axes.grid(alpha=0.3)
        if curves:
            axes.legend()


def plot_matrix(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], label: str, path: Path) -> None:
    """Plot a matrix as a heat map with its numbers; what is missing is white.

    Args:
      values: [number of rows, number of columns]; NaN is missing.
      rows: names of the rows.
      columns: names of the columns.
      label: name of the values.
      path: file to write.
    """
    with _axes(path, (3 + 0.8 * len(columns), 2 + 0.5 * len(rows)), dpi=120) as axes:
        image = axes.imshow(values, cmap='Blues', aspect='auto')
        axes.set_xticks(np.arange(len(columns)), [_short(name) for name in columns], rotation=30, ha='right')
        axes.set_yticks(np.arange(len(rows)), [_short(name) for name in rows])
        middle = np.nanmean([np.nanmin(values), np.nanmax(values)])
        for i, j in np.argwhere(~np.isnan(values)):
            color = 'w' if values[i, j] > middle else 'k'
            axes.text(j, i, f'{values[i, j]:.3f}', ha='center', va='center', fontsize=9, color=color)
        axes.figure.colorbar(image, label=label)


@contextlib.contextmanager
def _axes(path: Path, size: tuple[float, float], dpi: int) -> Iterator[Any]:
    """Yield the axes of a figure that is written to a file at the end: without a screen, and with texts as they are.

    Names of classes and runs are users' text: a $ in them begins no formula, whatever the user's matplotlibrc says.
    """
    import matplotlib
    from matplotlib.figure import Figure

    plain: dict[Any, Any] = {'text.parse_math': False, 'text.usetex': False, 'axes.formatter.use_mathtext': False}
    with matplotlib.rc_context(plain), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing', UserWarning)  # characters that no font here has
        figure = Figure(figsize=size, layout='constrained')  # not by pyplot, whose backend is the user's
        yield figure.subplots()
        figure.savefig(path, dpi=dpi)


def _short(name: str) -> str:
    """Return a name on one line, of a length that leaves room for the plot."""
    printable = ''.join(character if character.isprintable() else ' ' for character in name)
    return printable if len(printable) <= _LONGEST_NAME else f'{printable[: _LONGEST_NAME - 1]}…'
