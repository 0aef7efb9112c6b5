"""The report of a fine-tuned run: files in MODEL_DIR and the lines in the terminal."""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from palm_jax.reports.plots import plot_losses
from palm_jax.training.result import TrainingResult

WORST = 20  # errors that a page lists
Table = Sequence[Sequence[str]]  # the first row is the header


@dataclasses.dataclass(frozen=True)
class Pages:
    """What a run reached on its held-out examples.

    Attributes:
      finished: the run.
      loss: mean over the held-out part.
      metrics: by name; the first is the main one.
      interval: the 95% interval of the main measure.
      predictions: a row an example, for predictions.jsonl.
      sections: tables by title.
      pictures: draws a file, by its name.
      table: for the terminal.
    """

    finished: TrainingResult
    loss: float
    metrics: Mapping[str, float]
    interval: tuple[float, float]
    predictions: Sequence[Mapping[str, Any]]
    sections: Mapping[str, Table] = dataclasses.field(default_factory=dict)
    pictures: Mapping[str, Callable[[Path], None]] = dataclasses.field(default_factory=dict)
    table: str = ''

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.finished.step

    def values(self) -> dict[str, float]:
        """For the writers."""
        return {'loss': self.loss, **self.metrics}

    def write(self, model_dir: Path) -> None:
        """report.md, report.html, predictions.jsonl, summary.json and the pictures in MODEL_DIR."""
        summary = {
            'step': self.step,
            'seconds': self.finished.seconds,
            'loss': self.loss,
            **self.metrics,
            f'{self._main}_interval': self.interval,
            'trained_parameters': self.finished.plan.num_trained,
            'parameters': self.finished.plan.num_params,
            'checkpoint': str(self.finished.checkpoint),
        }
        (model_dir / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
        with (model_dir / 'predictions.jsonl').open('w') as file:
            for row in self.predictions:
                file.write(json.dumps(row, ensure_ascii=False) + '\n')
        plot_losses(model_dir)
        for name, draw in self.pictures.items():
            draw(model_dir / name)
        plain = [(k, f'{v:.4f}' if isinstance(v, float) else str(v)) for k, v in summary.items()]
        sections = {
            'Measures': [('what', 'value'), *plain],
            'What was trained': [('what', 'value'), *self.finished.plan.cost().items()],
            **self.sections,
        }
        pictures = ['loss.png', *self.pictures]
        (model_dir / 'report.md').write_text(_markdown(model_dir.name, sections, pictures))
        (model_dir / 'report.html').write_text(_html(model_dir.name, sections, pictures))

    def text(self, model_dir: Path, continue_command: str) -> str:
        """What the terminal shows."""
        low, high = self.interval
        rest = [f'{name.replace("_", " ")} {v:.4f}' for name, v in self.metrics.items() if name != self._main]
        lines = [
            f'\n{self.table}' if self.table else '',
            f'validation {self._main.replace("_", " ")}  {self.metrics[self._main]:.4f}  '
            f'(95% interval {low:.4f} to {high:.4f}, {len(self.predictions):,} examples)',
            f'also       {", ".join(rest)}',
            f'trained    {self.finished.plan.trained_summary()}',
            f'report     {model_dir / "report.html"} (and report.md)',
            f'predictions {model_dir / "predictions.jsonl"}',
            f'checkpoint {self.finished.checkpoint}',
            f'continue with {continue_command}',
        ]
        return '\n'.join(lines)

    @property
    def _main(self) -> str:
        return next(iter(self.metrics))


def _markdown(title: str, sections: Mapping[str, Table], pictures: Sequence[str]) -> str:
    def cell(value: str) -> str:
        return value.replace('|', '\\|').replace('\n', ' ')

    lines = [f'# {title}', '', *(f'![{p}]({p})' for p in pictures), '']
    for heading, (header, *rows) in sections.items():
        lines += [f'## {heading}', '', f'| {" | ".join(header)} |', '|' + '---|' * len(header)]
        lines += [f'| {" | ".join(map(cell, row))} |' for row in rows] + ['']
    return '\n'.join(lines)


def _html(title: str, sections: Mapping[str, Table], pictures: Sequence[str]) -> str:
    style = (
        'body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}'
        'table{border-collapse:collapse}td,th{border-bottom:1px solid #ddd;padding:.25rem .75rem;text-align:left}'
        'img{max-width:100%}'
    )
    parts = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>']
    parts += [f'<style>{style}</style><h1>{html.escape(title)}</h1>']
    parts += [f'<img src="{p}" alt="{p}">' for p in pictures]
    for heading, (header, *rows) in sections.items():
        parts.append(f'<h2>{html.escape(heading)}</h2><table><tr>')
        parts += [f'<th>{html.escape(h)}</th>' for h in header]
        parts += ['<tr>' + ''.join(f'<td>{html.escape(c)}</td>' for c in row) for row in rows]
        parts.append('</table>')
    return '\n'.join(parts) + '\n'
