"""The result of a sequence of tasks as a table, a page and a heat map."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from palm_jax.errors import UserError
from palm_jax.reports import pages, plots
from palm_jax.studies import transfer
from palm_jax.studies.continual import Continual
from palm_jax.studies.transfer import Transfer
from palm_jax.training.best import is_smaller_better
from palm_jax.wording import counted


def measure(study: Continual) -> tuple[np.ndarray, Transfer]:
    """Return the scores R so far, [T + 1, T] with NaN for what is missing, and the measures.

    Raises:
      UserError: no task is measured.
    """
    rows, count = study.scores.read(), len(study.tasks)
    if not rows:
        raise UserError(f'{study.directory} holds no measured task of this study.')
    scores = np.full((count + 1, count), np.nan)
    scores[: len(rows)] = rows
    return scores, transfer.measure(scores, is_smaller_better(study.metric))


def cells(study: Continual, scores: np.ndarray) -> list[list[str]]:
    """Return the cells of the matrix; the first row is its header."""
    tasks = list(study.tasks)
    names = ['before', *(f'after {task}' for task in tasks)]
    return [[study.metric, *tasks], *([name, *map(_number, row)] for name, row in zip(names, scores, strict=True))]


def measures(found: Transfer) -> list[list[str]]:
    """Return the cells of the measures; the first row is their header."""
    about = {
        'average': ('average score at the end', 'mean of R_Tj'),
        'forgetting': ('forgetting', 'mean of the best earlier R_ij minus R_Tj, j < T; 0 or less is best'),
        'backward': ('backward transfer (BWT)', 'mean of R_Tj − R_jj, j < T; more is better'),
        'forward': ('forward transfer (FWT)', 'mean of R_(j−1)j − R_0j, j > 1; more is better'),
    }
    values = dataclasses.asdict(found)
    rows = [[name, _number(values[key], '' if key == 'average' else '+'), text] for key, (name, text) in about.items()]
    return [['measure', 'value', 'definition'], *rows]


def text(study: Continual, scores: np.ndarray, found: Transfer) -> str:
    """Return both tables for the terminal."""
    return '\n\n'.join(map(_aligned, (cells(study, scores), measures(found))))


def write(study: Continual, scores: np.ndarray, found: Transfer) -> list[Path]:
    """Write the result to the study's directory: `continual.json`, `.md`, `.html` and `.png`; return the paths."""
    folder, tasks = Path(study.directory), list(study.tasks)
    paths = [folder / f'continual.{suffix}' for suffix in ('json', 'md', 'html', 'png')]
    record = {
        'metric': study.metric,
        'tasks': {task: list(flags) for task, flags in study.tasks.items()},
        'flags': list(study.flags),
        'later_flags': list(study.later_flags),
        'before': _json(scores[0]),
        'scores': [_json(row) for row in scores[1:]],
        **{name: _json([value])[0] for name, value in dataclasses.asdict(found).items()},
    }
    paths[0].write_text(json.dumps(record, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
    plots.plot_matrix(scores, ['before', *(f'after {task}' for task in tasks)], tasks, study.metric, paths[3])
    tables = {
        'Scores of every task after each': cells(study, scores),
        'Transfer': measures(found),
        'Flags': [
            ['task', 'flags'],
            ['all', ' '.join(study.flags)],
            ['from the second on', ' '.join(study.later_flags)],
            *([task, ' '.join(flags)] for task, flags in study.tasks.items()),
        ],
    }
    missing = int(np.isnan(scores).any(axis=1).sum())
    warnings = [f'{counted(missing, "row")} of {len(scores)} not measured yet, or without a number.'] if missing else []
    title = f'{counted(len(tasks), "task")}, one after another'
    paths[1].write_text(pages.markdown(title, tables, [paths[3].name], warnings), encoding='utf-8')
    paths[2].write_text(pages.html_page(title, tables, [paths[3].name], warnings), encoding='utf-8')
    return paths


def _number(value: float, sign: str = '') -> str:
    return 'n/a' if math.isnan(value) else format(value, f'{sign}.4f')


def _json(values: Sequence[float] | np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]


def _aligned(table: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return '\n'.join('  '.join(map(str.ljust, row, widths)).rstrip() for row in table)
