"""An ablation: variants of one run, each with several seeds, compared with a baseline in pairs of the same seed."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from palm_jax.bounds import NotEmpty, Seed, checked
from palm_jax.configuration.flags import gin_flags
from palm_jax.errors import UserError, closest
from palm_jax.run_directory import RunDirectory
from palm_jax.studies import runs
from palm_jax.studies.runs import StudyRun, measure

_LOGGER = logging.getLogger(__name__)

OWN = {'SEED': 'by STUDY_SEEDS', 'MODEL_DIR': 'a folder of STUDY_DIR for every run'}

Flags = Sequence[str]
Train = Callable[[Sequence[str], Sequence[tuple[str, str]]], int]


@checked
@dataclasses.dataclass(frozen=True)
class Ablation:
    """The arms of an ablation and its seeds.

    Attributes:
      directory: directory of the study; the run of an arm with a seed is in DIRECTORY/ARM/seed_N.
      flags: flags of `palm-jax train` that all runs share: `--gin_file=...` and `--gin.NAME=value`. Here and in `arms`,
        `{seed}` stands for the seed of the run, e.g. for rows that are drawn by it.
      arms: further flags of each arm, by its name; an empty list is the run as the shared flags describe it.
      seeds: distinct seeds; every arm is trained with each.
      metric: number of summary.json that is compared. Losses, errors, perplexities and bits per byte are better when
        smaller, all others when larger.
      baseline: arm that the others are compared with; None is the first.
    """

    directory: Annotated[str, NotEmpty()]
    flags: Annotated[Flags, NotEmpty()]
    arms: Annotated[Mapping[str, Flags], NotEmpty()]
    seeds: Annotated[Sequence[Seed], NotEmpty()] = (0, 1, 2)
    metric: Annotated[str, NotEmpty()] = 'accuracy'
    baseline: str | None = None

    def __post_init__(self) -> None:
        if len(set(self.seeds)) != len(self.seeds):
            raise UserError(f'STUDY_SEEDS is {list(self.seeds)}; it must be a list of distinct numbers: [0, 1, 2].')
        if self.baseline is not None and self.baseline not in self.arms:
            raise UserError(
                f'BASELINE is {self.baseline!r}, which is not an arm.{closest(self.baseline, self.arms)} '
                f'Arms: {", ".join(map(repr, self.arms))}.'
            )
        names = [_folder(name) for name in self.arms]
        if twice := [arm for arm, name in zip(self.arms, names, strict=True) if names.count(name) > 1]:
            raise UserError(
                f'ARMS: {", ".join(map(repr, twice))} have the same folder {_folder(twice[0])!r}; rename one.'
            )
        if not all(names):
            raise UserError('ARMS: the name of an arm must have a letter or a digit.')

    @property
    def reference(self) -> str:
        """Name of the arm that the others are compared with."""
        return next(iter(self.arms)) if self.baseline is None else self.baseline

    def runs(self) -> list[StudyRun]:
        """Return all runs, in the order in which they are trained: seed by seed, so that pairs are complete early."""
        return [self._run(arm, seed) for seed in self.seeds for arm in self.arms]

    def _run(self, arm: str, seed: int) -> StudyRun:
        directory = RunDirectory(Path(self.directory) / _folder(arm)).seed(seed)
        own = [f'--gin.SEED={seed}', f'--gin.MODEL_DIR={str(directory)!r}']
        return StudyRun(f'{arm}, seed {seed}', (*self._flags(arm, seed), *own), directory)

    def _flags(self, arm: str, seed: int) -> list[str]:
        return [flag.replace('{seed}', str(seed)) for flag in (*self.flags, *self.arms[arm])]

    def check(self) -> None:
        """Read the configuration of every arm, so that a mistake in the last one is found before the first one trains.

        Raises:
          UserError: an arm's files or bindings are wrong, or a directory holds a run with other flags.
        """
        for arm in self.arms:
            distinct = dict.fromkeys(tuple(self._flags(arm, seed)) for seed in self.seeds)
            try:
                for flags in distinct:
                    runs.check(flags, OWN)
            except UserError as error:
                raise UserError(f'ARMS[{arm!r}]: {error}') from None
        for run in self.runs():
            run.check()

    def measured(self) -> dict[str, dict[int, float]]:
        """Return the metric of every finished run, by arm and seed.

        Raises:
          UserError: a finished run has no such metric.
        """
        found = {arm: {seed: measure(self._run(arm, seed), self.metric) for seed in self.seeds} for arm in self.arms}
        return {arm: {s: v for s, v in values.items() if v is not None} for arm, values in found.items()}

    def costs(self, arm: str) -> tuple[int | None, float | None]:
        """Return the number of trained parameters of an arm, and the mean seconds of its finished runs."""
        found = [summary for seed in self.seeds if (summary := self._run(arm, seed).summary())]
        if not found:
            return None, None
        return found[0].get('trained_parameters'), sum(summary.get('seconds', 0.0) for summary in found) / len(found)

    def train(self, train: Train, only: int | None = None) -> int:
        """Train what is not finished.

        Args:
          train: function of gin files and bindings, which trains or continues a run; see `api.training.train`.
          only: number of one run, from 0, as a job of an array trains it; None: all.

        A run that diverges is left without a result.

        Returns:
          0, or the exit code of the run that a signal interrupted.

        Raises:
          UserError: no run has the number, a run cannot begin, or a finished run has no such metric.
        """
        all_runs = self.runs()
        if only is not None and not 0 <= only < len(all_runs):
            raise UserError(f'--run={only}: the study has {len(all_runs)} runs, numbers 0 to {len(all_runs) - 1}.')
        for number, run in enumerate(all_runs):
            if only not in (None, number):
                continue
            run.begin()
            if run.is_finished:
                _LOGGER.info('run %d of %d: %s is finished', number + 1, len(all_runs), run.name)
                measure(run, self.metric)
                continue
            _LOGGER.info('\n=== run %d of %d: %s', number + 1, len(all_runs), run.name)
            try:
                if code := train(*gin_flags(run.flags)):
                    return code
            except UserError as error:
                if not run.has_diverged:
                    raise
                _LOGGER.warning('%s failed: %s', run.name, error)
            measure(run, self.metric)  # a mistyped metric costs one run, not all
        return 0


def _folder(arm: str) -> str:
    """Return the name of an arm's folder: its letters and digits."""
    return re.sub(r'[^\w.-]+', '_', arm).strip('._-').lower()


def job_script(study: Ablation, command: str) -> str:
    """Return a Slurm script that trains every run of a study as a job of its own.

    Args:
      study: the study.
      command: command that runs the whole study.
    """
    return (
        '#!/bin/bash\n'
        f'#SBATCH --job-name=ablate --array=0-{len(study.runs()) - 1} --output={study.directory}/job_%a.log\n'
        f'{command} --run="$SLURM_ARRAY_TASK_ID"\n'
    )
