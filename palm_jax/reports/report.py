"""What all reporters share: measurements of a model, and the report of a finished run that is made of them."""

from __future__ import annotations

import abc
import dataclasses
import json
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palm_jax.errors import UserError
from palm_jax.metrics.text_baselines import Baseline
from palm_jax.reports import pages
from palm_jax.reports.pages import Table
from palm_jax.reports.plots import plot_losses
from palm_jax.run_directory import RunDirectory, write_whole
from palm_jax.training.result import EvaluationInput, TrainingResult
from palm_jax.training.writers import read_jsonl
from palm_jax.wording import counted

_LOGGER = logging.getLogger(__name__)
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
      warnings: sentences that are shown before everything else: the model is no better than a baseline.
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
    warnings: Sequence[str] = ()
    loss_unit: str = 'loss'


class RunReporter(abc.ABC):
    """Measures a model on held-out data, and reports a finished run."""

    def metric_names(self, data: Any) -> Collection[str] | None:
        """Return the names of the metrics that `measure` adds to those of the loss; None if they are not known.

        BEST_METRIC is compared with them before training.
        """
        del data
        return None

    def check(self, data: Any) -> None:
        """Refuse settings that do not fit the data, before training.

        Raises:
          UserError: with the binding to change.
        """
        del data

    @abc.abstractmethod
    def measure(self, inputs: EvaluationInput) -> Measurements:
        """Measure a model on the held-out part of its data; needs no run."""

    def __call__(self, result: TrainingResult) -> RunReport:
        """Measure the model of a finished run, and report both."""
        return RunReport(result, self.measure(result.inputs))


NUMBERS = (
    'step',
    'seconds',
    'held_out_examples',
    'trained_parameters',
    'parameters',
)  # of summary.json besides metrics


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
        write_whole(files.summary, json.dumps(summary, indent=2, ensure_ascii=False) + '\n')
        plot_losses(model_dir, measured.loss_unit)
        if measured.samples is not None:
            write_whole(files.samples, measured.samples)
        if measured.predictions is not None:
            rows = (json.dumps(row, ensure_ascii=False) + '\n' for row in measured.predictions)
            write_whole(files.predictions, ''.join(rows))
        for name, draw in measured.figures.items():
            draw(model_dir / name)
        if measured.tables:
            self._write_pages(files, summary)

    def _write_pages(self, files: RunDirectory, summary: Mapping[str, Any]) -> None:
        numbers = [(name, shown) for name, value in summary.items() if (shown := _in_short(value)) is not None]
        tables = {
            'Metrics': [('metric', 'value'), *numbers],
            'What was trained': [('what', 'value'), *self.result.plan.cost().items()],
            **_last_of_training(files),
            **self.measurements.tables,
        }
        title, pictures = files.path.name, [files.loss_plot.name, *self.measurements.figures]
        write_whole(files.markdown_report, pages.markdown(title, tables, pictures, self.measurements.warnings))
        write_whole(files.html_report, pages.html_page(title, tables, pictures, self.measurements.warnings))

    def text(self, model_dir: Path, continue_command: str) -> str:
        """Return what the terminal shows.

        Args:
          model_dir: directory of the run, to which `write` wrote.
          continue_command: command that trains the model further; empty if none does.
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
        ]
        rows += [('continue with', continue_command)] if continue_command else []
        shown = [f'\n{measured.text}', *measured.warnings, *measured.lines]
        return '\n'.join([*shown, *(f'{name:<16} {value}' for name, value in rows)])


def measurements_of(
    loss: float,
    metrics: Mapping[str, float],
    interval: tuple[float, float] | None,
    predictions: Sequence[Mapping[str, Any]],
    baselines: Sequence[Baseline] = (),
    tables: Mapping[str, Table] | None = None,
    **others: Any,
) -> Measurements:
    """Return measurements of predictions, of which the first metric is the main one.

    Args:
      loss: mean loss over the held-out part.
      metrics: metrics of the predictions by name.
      interval: 95% confidence interval of the first metric; None where there is none.
      predictions: one row per held-out example.
      baselines: what baselines reach on the same examples, in a metric of `metrics` each.
      tables: see `Measurements`; one of the baselines is put first.
      others: see `Measurements`.
    """
    main, value = next(iter(metrics.items()))
    shown = 'n/a' if interval is None else f'{interval[0]:.4f} to {interval[1]:.4f}'
    rest = [f'{name.replace("_", " ")} {v:.4f}' for name, v in metrics.items() if name != main]
    lines = [
        f'validation {main.replace("_", " ")}  {value:.4f}  '
        f'(95% interval {shown}, {counted(len(predictions), "example")})',
        f'{"also":<16} {", ".join(rest)}',
        *(f'{"baseline":<16} {b.metric.replace("_", " ")} {b.value:.4f}: {b.name}' for b in baselines),
    ]
    values = {'loss': loss, **metrics}
    details: dict[str, Any] = {'held_out_examples': len(predictions)}
    if baselines:
        details['baselines'] = {b.name: {b.metric: b.value} for b in baselines}
        header = ('baseline', 'metric', 'baseline has', 'this model has')
        rows = [(b.name, b.metric, f'{b.value:.4f}', f'{values[b.metric]:.4f}') for b in baselines]
        tables = {'Baselines': [header, *rows], **(tables or {})}
    return Measurements(
        values,
        {} if interval is None else {main: interval},
        predictions,
        details,
        lines=lines,
        tables=tables or {},
        warnings=warn_if_beaten(values, baselines),
        **others,
    )


def available(compute: Callable[[], list[Baseline]]) -> list[Baseline]:
    """Return baselines, or none, with a message, where the training files of a loaded run can no longer be read."""
    try:
        return compute()
    except UserError as error:
        _LOGGER.warning('without baselines: %s', error)
        return []


def warn_if_beaten(metrics: Mapping[str, float], baselines: Sequence[Baseline]) -> list[str]:
    """Return a sentence for every baseline that a model does not beat."""
    return [
        f'This model is no better than a baseline: {b.metric.replace("_", " ")} {metrics[b.metric]:.4f}, '
        f'and {b.value:.4f} by {b.name}.'
        for b in baselines
        if not b.is_beaten_by(metrics[b.metric])
    ]


def table_of_errors(title: str, predictions: Sequence[Mapping[str, Any]], badness: np.ndarray) -> dict[str, Table]:
    """Return `worst` by its title, or no table if all predictions are right."""
    rows = worst(predictions, badness)
    return {title: rows} if len(rows) > 1 else {}


def worst(predictions: Sequence[Mapping[str, Any]], badness: np.ndarray) -> Table:
    """A table of the predictions of the greatest badness [E]; -inf marks a correct prediction."""
    header = ('text', 'label', 'predicted')
    return [header, *(tuple(cell(predictions[i][name]) for name in header) for i in worst_rows(badness, _WORST))]


def worst_rows(badness: np.ndarray, most: int) -> list[int]:
    """Return the examples of the greatest badness [E], at most some; -inf marks a correct prediction."""
    return [int(i) for i in np.argsort(-badness, kind='stable')[:most] if np.isfinite(badness[i])]


def cell(value: Any) -> str:
    """Return a label or a prediction for a table: numbers rounded, names joined."""
    if isinstance(value, float):
        return f'{value:.4g}'
    return ', '.join(map(cell, value)) if isinstance(value, list | tuple) else str(value)


def _last_of_training(files: RunDirectory) -> dict[str, Table]:
    """Return a table of the metrics that training logged last, those of methods included; none without a log."""
    logged = [record for record in read_jsonl(files.metrics) if 'train/loss' in record]
    if not logged:
        return {}
    rows = [(name.removeprefix('train/'), _in_short(float(value)) or '') for name, value in logged[-1].items()
            if name.startswith('train/')]  # fmt: skip
    return {f'Training, up to step {logged[-1]["step"]:,}': [('metric', 'value'), *rows]}


def _in_short(value: Any) -> str | None:
    """Return a value of summary.json for a table, rounded; None for lists and objects, which are tables themselves."""
    match value:
        case float():
            return 'n/a' if math.isnan(value) else f'{value:.4f}'
        case int():
            return f'{value:,}'
        case (float() as low, float() as high):
            return f'{low:.4f} to {high:.4f}'
        case list() | tuple() | dict():
            return None
    return str(value)
