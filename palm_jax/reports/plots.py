"""Plots of a run: its loss curves and confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix

from palm_jax.run_directory import RunDirectory
from palm_jax.training.writers import read_jsonl


def plot_losses(model_dir: Path, unit: str = 'loss') -> None:
    """Plot training and validation loss by step, from MODEL_DIR/metrics.jsonl to MODEL_DIR/loss.png.

    Args:
      model_dir: directory of the run.
      unit: label of the loss axis.
    """
    pyplot, files = _pyplot(), RunDirectory(model_dir)
    records = read_jsonl(files.metrics)
    figure, axes = pyplot.subplots(figsize=(7, 4), layout='constrained')
    for name, label, style in (('train/loss', 'training', '-'), ('validation/loss', 'validation', 'o-')):
        points = [(record['step'], record[name]) for record in records if name in record]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.set(xlabel='step', ylabel=unit, title=model_dir.name)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(files.loss_plot, dpi=120)
    pyplot.close(figure)


def plot_confusion(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Plot the confusion matrix: one row per true class, as fractions of the row, with counts for up to 20 classes.

    Args:
      labels: true classes, int [E], indices into `names`.
      predicted: predicted classes, int [E].
      names: names of the classes.
      path: file to write.
    """
    pyplot = _pyplot()
    counts = confusion_matrix(labels, predicted, labels=np.arange(len(names)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(4 + 0.22 * len(names), 20)
    figure, axes = pyplot.subplots(figsize=(size, size), layout='constrained')
    image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    ticks, small = np.arange(len(names)), 6 if len(names) > 30 else 8
    axes.set_xticks(ticks, names, rotation=90, fontsize=small)
    axes.set_yticks(ticks, names, fontsize=small)
    axes.set(xlabel='predicted', ylabel='true')
    if len(names) <= 20:
        for i, j in np.ndindex(*counts.shape):
            color = 'w' if shares[i, j] > 0.5 else 'k'
            axes.text(j, i, counts[i, j], ha='center', va='center', fontsize=small, color=color)
    figure.colorbar(image, shrink=0.6, label='share of the true class')
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _pyplot():
    """Import matplotlib, without a screen, when something is drawn."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    return pyplot
