"""A run of a study: its flags, its directory, and what it has measured."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from palm_jax.configuration.flags import gin_flags
from palm_jax.configuration.load import load
from palm_jax.configuration.record import MAY_CHANGE
from palm_jax.errors import UserError, closest
from palm_jax.run_directory import RunDirectory, write_whole
from palm_jax.training.writers import read_jsonl

_OF_SOME = ('perplexity', 'best_constant')  # further numbers that some reporters write


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """One training run of a study.

    Attributes:
      name: name for messages.
      flags: flags of `palm-jax train`.
      directory: MODEL_DIR.
    """

    name: str
    flags: tuple[str, ...]
    directory: RunDirectory

    @property
    def is_finished(self) -> bool:
        """Whether the run has written its report."""
        return self.summary() is not None

    @property
    def has_diverged(self) -> bool:
        """Whether the last training loss of the run is not finite."""
        logged = [values['train/loss'] for values in read_jsonl(self.directory.metrics) if 'train/loss' in values]
        return bool(logged) and not math.isfinite(logged[-1])

    @property
    def _kept_flags(self) -> Path:
        return self.directory.path.with_suffix('.flags.json')

    def check(self, set_later: Collection[str] = ()) -> None:
        """Refuse other flags than those with which the run in the directory was begun. Nothing is written.

        Of a run that is not finished, those may change that `palm-jax train` continues with.

        Args:
          set_later: macros whose values the study knows once the run begins.

        Raises:
          UserError: the directory holds a run with other flags.
        """
        is_finished = self.is_finished
        if not (is_finished or self.directory.is_begun) or not self._kept_flags.is_file():
            return
        ignored = {*set_later, *(() if is_finished else MAY_CHANGE)}
        kept = json.loads(self._kept_flags.read_text(encoding='utf-8'))
        before, now = (
            [flag for flag in flags if flag.removeprefix('--gin.').partition('=')[0] not in ignored]
            for flags in (kept, self.flags)
        )
        if before != now:
            lines = [f'-{flag}' for flag in before if flag not in now]
            lines += [f'+{flag}' for flag in now if flag not in before]
            shown = '\n'.join(lines) or 'the same in another order'
            raise UserError(
                f'{self.directory} holds a run with other flags:\n{shown}\n'
                f'Use another directory with --gin.STUDY_DIR=..., or train it again: rm -r {self.directory}'
            )

    def begin(self) -> None:
        """Keep the flags of the run beside its directory.

        Raises:
          UserError: see `check`.
        """
        self.check()
        self.directory.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._kept_flags, json.dumps(self.flags, indent=2) + '\n')

    def summary(self) -> dict[str, Any] | None:
        """Return the content of summary.json; None if the run has not finished.

        Raises:
          UserError: the file is damaged.
        """
        path = self.directory.summary
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding='utf-8'))
        except ValueError:
            raise UserError(f'{path} is damaged. Remove it, and run the study again to write it again.') from None


def check(flags: Sequence[str], own: Mapping[str, str]) -> None:
    """Read the configuration of a run, and refuse flags that the study would override in silence.

    Args:
      flags: flags of `palm-jax train`, without those that the study adds.
      own: what sets it instead, by the name of every macro that the study sets.

    Raises:
      UserError: the files, their bindings or the flags are wrong.
    """
    gin_files, bindings = gin_flags(flags)
    for name, instead in own.items():
        if name in dict(bindings):
            raise UserError(f'--gin.{name} has no effect in a study, which sets {name} itself: {instead}.')
    seeds = load('loop.train', gin_files, bindings).effective.get('SEEDS')
    if seeds is not None and seeds.value is not None:
        raise UserError(f'{seeds.location}: SEEDS trains several models, and a run of a study is one. Remove it.')


def check_metric(metric: str, names: Collection[str] | None) -> None:
    """Refuse a metric that no run will have, before the first one trains.

    Args:
      metric: METRIC of the study.
      names: numbers that summary.json will have; None if they are not known.

    Raises:
      UserError: the metric is not among them.
    """
    if names is not None and metric not in (*names, *_OF_SOME):
        raise UserError(
            f'METRIC is {metric!r}, which the runs will not have.{closest(metric, names)} '
            f'They will have {", ".join(sorted(names))}.'
        )


def measure(run: StudyRun, metric: str) -> float | None:
    """Return a metric of a run's summary; None if the run has not finished, or its metric is not a number.

    Raises:
      UserError: the summary has no such metric.
    """
    summary = run.summary()
    if summary is None:
        return None
    numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
    if metric not in numbers:
        raise UserError(
            f'METRIC is {metric!r}, which {run.directory.summary} does not have.{closest(metric, numbers)} '
            f'It has {", ".join(numbers)}.'
        )
    return None if math.isnan(numbers[metric]) else float(numbers[metric])
