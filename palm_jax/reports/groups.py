"""The groups of the held-out examples beside one another, and the worst of them as a metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from palm_jax.labels import scoring
from palm_jax.labels.label_kind import LabelKind
from palm_jax.reports.report import Measurements
from palm_jax.wording import counted

_WITHOUT = '(none)'


def metric_of(kind: LabelKind) -> str:
    """Return the name of the metric of the worst group: of its accuracy, or of its mean absolute error."""
    return 'worst_group_accuracy' if kind.has_classes else 'worst_group_absolute_error'


def with_groups(measured: Measurements, kind: LabelKind, groups: Sequence[str | None]) -> Measurements:
    """Return measurements with the worst group's accuracy or error as a metric, and a table of all groups.

    Args:
      measured: measurements with a prediction for every example.
      kind: kind of label.
      groups: group of every example; None for one without a group, which is listed but cannot be the worst.
    """
    rows = measured.predictions or ()
    scores = np.array([scoring.score(kind, row['predicted'], row['label']) for row in rows])
    names = sorted({group for group in groups if group is not None})
    if not names:
        return measured
    of_example = np.array([_WITHOUT if group is None else group for group in groups])
    means = {name: float(scores[of_example == name].mean()) for name in names}
    worst = min(means, key=lambda name: means[name])
    shown = 'accuracy' if kind.has_classes else 'mean absolute error'
    metrics = {**measured.metrics, metric_of(kind): abs(means[worst])}
    listed = [*names, *([_WITHOUT] if _WITHOUT in of_example and _WITHOUT not in names else [])]
    cells = [
        (name, f'{(of_example == name).sum():,}', f'{abs(float(scores[of_example == name].mean())):.4f}')
        for name in listed
    ]
    count = counted(int((of_example == worst).sum()), 'example')
    line = f'{"worst group":<16} {shown} {abs(means[worst]):.4f}: {worst}, {count}'
    tables = {'Groups': [('group', 'examples', shown), *cells], **measured.tables}
    return dataclasses.replace(measured, metrics=metrics, tables=tables, lines=[*measured.lines, line])
