"""The base of reporters that measure something beside what the reporter of a task measures."""

from __future__ import annotations

import dataclasses
from typing import Any

from palm_jax.reports.report import RunReporter


@dataclasses.dataclass(frozen=True)
class ExtendedReporter(RunReporter):
    """A reporter around that of a task, which has the attributes that this one lacks; see `RunReporter`.

    A subclass implements `measure`, and `metric_names` if it adds metrics.

    Attributes:
      reporter: reporter of the task.
    """

    reporter: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_') or name == 'reporter':
            raise AttributeError(name)
        return getattr(self.reporter, name)

    def metric_names(self, data):
        """Return the names of the task's metrics."""
        return self.reporter.metric_names(data)

    def check(self, data):
        """Check the settings of the task's reporter."""
        self.reporter.check(data)
