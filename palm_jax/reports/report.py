"""What all reporters share: measurements of a model, and the report of a finished run that is made of them."""

from __future__ import annotations

import abc
import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palm_jax.reports import pages
from palm_jax.reports.pages import Table
from palm_jax.reports.plots import plot_losses
from palm_jax.run_directory import RunDirectory
from palm_jax.training.result import EvaluationInput, TrainingResult

_WORST = 20  # errors listed in a report


@dataclasses.dataclass(frozen=True)
class Measurements:
    """What a reporter found out about a model on held-out data.

    Attributes:
      metrics: values by name; `loss` is one of them.
      intervals: 95% confidence intervals, (low, high) by the metric's name.
      predictions: one row per held-out example, for predictions.jsonl; None for none.
      details: further contents of summary.json.
      text: samples or a table, shown first in the terminal.
      lines: the measurements in words, for the terminal.
      tables: tables by title, for report.md and report.html, which are written where there are any.
      figures: functions that draw a file, by its name.
      samples: contents of samples.txt; None writes none.
      loss_unit: axis label of the loss curve.
    """

    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    predictions: Sequence[Mapping[str, Any]] | None = None
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    text: str = ''
    lines: Sequence[str] = ()
    tables: Mapping[str, Table] = dataclasses.field(default_factory=dict)
    figures: Mapping[str, Callable[[Path], None]] = dataclasses.field(default_factory=dict)
    samples: str | None = None
    loss_unit: str = 'loss'


class RunReporter(abc.ABC):
    """Measures a model on held-out data, and reports a finished run."""

    def metric_names(self, data: Any) -> Collection[str] | None:
        """Return the names of the metrics that `measure` adds to those of the loss; None if they are not known.

        BEST_METRIC is compared with them before training.
        """
        del data
        return None

    @abc.abstractmethod
    def measure(self, inputs: EvaluationInput) -> Measurements:
        """Measure a model on the held-out part of its data; needs no run."""

    def __call__(self, result: TrainingResult) -> RunReport:
        """Measure the model of a finished run, and report both."""
        return RunReport(result, self.measure(result.inputs))


@dataclasses.dataclass(frozen=True)
class RunReport:
    """A finished run: what its model reached, what was trained, and at what cost.

    Attributes:
      result: the run.
      measurements: what its model reached on held-out data.
    """

    result: TrainingResult
    measurements: Measurements

    def values(self) -> dict[str, float]:
        """Metrics by name, for the writers."""
        return dict(self.measurements.metrics)

    def summary(self) -> dict[str, Any]:
        """Contents of summary.json."""
        measured, result = self.measurements, self.result
        return {
            'step': result.step,
            'seconds': result.seconds,
            **measured.metrics,
            **{f'{name}_interval': interval for name, interval in measured.intervals.items()},
            **measured.details,
            'trained_parameters': result.plan.num_trained,
            'parameters': result.plan.num_params,
            'checkpoint': str(result.checkpoint),
        }

    def write(self, model_dir: Path) -> None:
        """Write summary.json, loss.png and whatever else the measurements have to MODEL_DIR."""
        measured, summary, files = self.measurements, self.summary(), RunDirectory(model_dir)
        _write_text(files.summary, json.dumps(summary, indent=2, ensure_ascii=False) + '\n')
        plot_losses(model_dir, measured.loss_unit)
        if measured.samples is not None:
            _write_text(files.samples, measured.samples)
        if measured.predictions is not None:
            rows = (json.dumps(row, ensure_ascii=False) + '\n' for row in measured.predictions)
            _write_text(files.predictions, ''.join(rows))
        for name, draw in measured.figures.items():
            draw(model_dir / name)
        if measured.tables:
            self._write_pages(files, summary)

    def _write_pages(self, files: RunDirectory, summary: Mapping[str, Any]) -> None:
        numbers = [(name, f'{v:.4f}' if isinstance(v, float) else str(v)) for name, v in summary.items()]
        tables = {
            'Metrics': [('metric', 'value'), *numbers],
            'What was trained': [('what', 'value'), *self.result.plan.cost().items()],
            **self.measurements.tables,
        }
        title, pictures = files.path.name, [files.loss_plot.name, *self.measurements.figures]
        _write_text(files.markdown_report, pages.markdown(title, tables, pictures))
        _write_text(files.html_report, pages.html_page(title, tables, pictures))

    def text(self, model_dir: Path, continue_command: str) -> str:
        """Return what the terminal shows.

        Args:
          model_dir: directory of the run, to which `write` wrote.
          continue_command: command that trains the model further.
        """
        measured, files = self.measurements, RunDirectory(model_dir)
        rows: list[tuple[str, str | Path]] = [('loss curve', files.loss_plot)]
        rows += [('samples', files.samples)] if measured.samples is not None else []
        rows += [('predictions', files.predictions)] if measured.predictions is not None else []
        rows += [('report', f'{files.html_report} (and {files.markdown_report.name})')] if measured.tables else []
        rows += [
            ('trained', self.result.plan.trained_summary()),
            ('configuration', files.config),
            ('checkpoint', self.result.checkpoint),
            ('continue with', continue_command),
        ]
        return '\n'.join([f'\n{measured.text}', *measured.lines, *(f'{name:<16} {value}' for name, value in rows)])


def measurements_of(
    loss: float,
    metrics: Mapping[str, float],
    interval: tuple[float, float],
    predictions: Sequence[Mapping[str, Any]],
    **others: Any,
) -> Measurements:
    """Return measurements of predictions, of which the first metric is the main one.

    Args:
      loss: mean loss over the held-out part.
      metrics: metrics of the predictions by name.
      interval: 95% confidence interval of the first metric.
      predictions: one row per held-out example.
      others: see `Measurements`.
    """
    main, value = next(iter(metrics.items()))
    low, high = interval
    rest = [f'{name.replace("_", " ")} {v:.4f}' for name, v in metrics.items() if name != main]
    lines = [
        f'validation {main.replace("_", " ")}  {value:.4f}  '
        f'(95% interval {low:.4f} to {high:.4f}, {len(predictions):,} examples)',
        f'{"also":<16} {", ".join(rest)}',
    ]
    return Measurements({'loss': loss, **metrics}, {main: interval}, predictions, lines=lines, **others)


def worst(predictions: Sequence[Mapping[str, Any]], badness: np.ndarray) -> Table:
    """A table of the predictions of the greatest badness [E]; -inf marks a correct prediction."""
    rows = [('text', 'label', 'predicted')]
    for i in np.argsort(-badness, kind='stable')[:_WORST]:
        if np.isfinite(badness[i]):
            rows.append((predictions[i]['text'], str(predictions[i]['label']), str(predictions[i]['predicted'])))
    return rows


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding='utf-8')
