"""The scores of a sequence of tasks, kept in a file of the study."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from palm_jax.errors import UserError, closest
from palm_jax.run_directory import write_whole

Rows = list[list[float]]  # R_0, R_1, ..., each a list of T scores; NaN for a score that is not a number


@dataclasses.dataclass(frozen=True)
class ScoreFile:
    """The file with the scores of a study.

    Attributes:
      path: the file, in the directory of the study.
      metric: name of the metric.
      tasks: names of the tasks in their order.
    """

    path: Path
    metric: str
    tasks: Sequence[str]

    def read(self) -> Rows:
        """Return the scores so far.

        Raises:
          UserError: the file is damaged, or of other tasks or another metric.
        """
        if not self.path.is_file():
            return []
        try:
            kept = json.loads(self.path.read_text(encoding='utf-8'))
            rows, about = kept['scores'], {name: kept[name] for name in ('metric', 'tasks')}
        except (ValueError, KeyError, TypeError):
            raise UserError(f'{self.path} is damaged. Remove it, and run the study again.') from None
        if about != self._about():
            raise UserError(
                f'{self.path.parent} holds a study of {about["metric"]} on {", ".join(about["tasks"])}, this one is of '
                f'{self.metric} on {", ".join(self.tasks)}. Use another directory: --gin.STUDY_DIR=...; to measure the '
                f'same runs again, remove {self.path}.'
            )
        return [[np.nan if score is None else float(score) for score in row] for row in rows]

    def add(self, rows: Rows, measured: Sequence[Mapping[str, float]]) -> Rows:
        """Write the scores so far with those of one more model, and return them.

        Args:
          rows: the scores so far.
          measured: metrics of the held-out part of every task.

        Raises:
          UserError: a held-out part has no such metric.
        """
        for task, metrics in zip(self.tasks, measured, strict=True):
            if self.metric not in metrics:
                raise UserError(
                    f'METRIC is {self.metric!r}, which the held-out part of {task!r} does not have.'
                    f'{closest(self.metric, metrics)} It has {", ".join(metrics)}.'
                )
        return self.write([*rows, [float(metrics[self.metric]) for metrics in measured]])

    def write(self, rows: Rows) -> Rows:
        """Write the scores so far, and return them."""
        kept = [[None if np.isnan(score) else score for score in row] for row in rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(self._about() | {'scores': kept}, indent=2, ensure_ascii=False) + '\n')
        return rows

    def _about(self) -> dict[str, object]:
        return {'metric': self.metric, 'tasks': list(self.tasks)}
