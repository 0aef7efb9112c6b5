"""A search for the best values of gin bindings, by Optuna (https://arxiv.org/abs/1907.10902)."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from palm_jax.bounds import AtLeast, NotEmpty, Seed, checked
from palm_jax.configuration.flags import gin_flags
from palm_jax.errors import UserError, closest
from palm_jax.run_directory import RunDirectory, write_whole
from palm_jax.studies import runs
from palm_jax.studies import space as spaces
from palm_jax.studies.runs import StudyRun, measure
from palm_jax.training.best import is_smaller_better
from palm_jax.training.writers import Writer

if TYPE_CHECKING:
    import optuna

_LOGGER = logging.getLogger(__name__)
OWN = {'MODEL_DIR': 'a folder of STUDY_DIR for every trial'}
_STARTUP = 5  # trials that are drawn at random, and never pruned

Train = Callable[[Sequence[str], Sequence[tuple[str, str]], Sequence[Writer]], int]


@checked
@dataclasses.dataclass(frozen=True)
class Search:
    """A search over gin bindings.

    Trials are drawn by the tree-structured Parzen estimator (TPE), the first at random. A trial whose validation metric
    at a step is worse than the median of those before it ends early.

    Attributes:
      directory: directory of the search: `journal.log`, the runs `trial_N`, and the result.
      flags: flags of `palm-jax train` that all trials share: `--gin_file=...` and `--gin.NAME=value`.
      space: values by the name of a macro or binding: `['a', 'b']` is a choice, `(0.0, 0.3)` a range,
        `('log', 1e-4, 1e-2)` a range on a logarithmic scale; ranges with whole ends give whole numbers.
      trials: number of trials.
      metric: number of summary.json that is searched for. Losses, errors, perplexities and bits per byte are better
        when smaller, all others when larger.
      prune: validation metric of the training by which trials are ended early, as `loss`; None ends none.
      seed: seed of the draws.
    """

    directory: Annotated[str, NotEmpty()]
    flags: Annotated[Sequence[str], NotEmpty()]
    space: Annotated[Mapping[str, Any], NotEmpty()]
    trials: Annotated[int, AtLeast(1)] = 20
    metric: Annotated[str, NotEmpty()] = 'accuracy'
    prune: str | None = 'loss'
    seed: Seed = 0

    def __post_init__(self) -> None:
        spaces.check(self.space)

    def check(self) -> None:
        """Read the configuration of a trial, so that a mistake is found before the first one trains.

        Raises:
          UserError: the files, the flags or the space are wrong.
        """
        runs.check([*self.flags, *spaces.first_values(self.space)], OWN)

    @property
    def is_new(self) -> bool:
        """Whether the directory holds no journal yet."""
        return not self._journal.is_file()

    @property
    def first_trial(self) -> StudyRun:
        """A run with the first values of the space, which is not trained."""
        return self.of_trial(0, spaces.first_values(self.space))

    @property
    def _journal(self) -> Path:
        return Path(self.directory) / 'journal.log'

    def open(self) -> optuna.Study:
        """Return the study that the directory's journal holds, or a new one.

        Raises:
          UserError: Optuna is not installed, or the journal is of another space or metric.
        """
        try:
            import optuna
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend
        except ImportError:
            raise UserError('Optuna is not installed: pip install "palm_jax[search]"') from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder = Path(self.directory)
        folder.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            study_name='search',
            storage=JournalStorage(JournalFileBackend(str(self._journal))),
            direction='minimize' if is_smaller_better(self.metric) else 'maximize',
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP),
            load_if_exists=True,
        )
        # A process that continues must not draw what the one before it has drawn.
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=_STARTUP, seed=self.seed + len(study.trials))
        self._compare(study)
        return study

    def _compare(self, study: optuna.Study) -> None:
        now = json.loads(json.dumps({'flags': self.flags, 'space': self.space, 'metric': self.metric}))
        before = study.user_attrs.get('search', now)
        if changed := [name for name in now if now[name] != before.get(name)]:
            lines = [f'{sign}{n.upper()} = {side[n]}' for n in changed for sign, side in (('-', before), ('+', now))]
            shown = '\n'.join(lines)
            raise UserError(
                f'{self.directory} holds another search:\n{shown}\n'
                'Use another directory with --gin.STUDY_DIR=...; TRIALS may change.'
            )
        study.set_user_attr('search', now)

    def run(self, train: Train) -> int:
        """Train the trials that are missing; one that was interrupted is continued.

        Args:
          train: function of gin files, bindings and further writers of metrics that trains or continues a run; see
            `api.training.train`.

        Returns:
          0, or the exit code of the trial that a signal interrupted.
        """
        from optuna.trial import TrialState

        study = self.open()
        open_trials = [trial.number for trial in study.get_trials(states=(TrialState.RUNNING,))]
        while open_trials or len(study.trials) < self.trials:
            number = open_trials.pop(0) if open_trials else self._draw(study)
            if code := self._train(study, number, train):
                return code
        return 0

    def _draw(self, study: optuna.Study) -> int:
        trial = study.ask()
        trial.set_user_attr('flags', spaces.suggest(trial, self.space))
        return trial.number

    def of_trial(self, number: int, flags: Sequence[str]) -> StudyRun:
        """Return the run of a trial with the flags that it drew."""
        directory = RunDirectory(Path(self.directory) / f'trial_{number}')
        return StudyRun(f'trial {number}', (*self.flags, *flags, f'--gin.MODEL_DIR={str(directory)!r}'), directory)

    def _train(self, study: optuna.Study, number: int, train: Train) -> int:
        import optuna
        from optuna.trial import TrialState

        drawn = study.trials[number].user_attrs.get('flags')
        if drawn is None:  # the process was killed while it drew
            study.tell(number, state=TrialState.FAIL)
            return 0
        run = self.of_trial(number, drawn)
        _LOGGER.info('\n=== trial %d of %d: %s', number + 1, self.trials, ' '.join(drawn))
        pruner = [] if self.prune is None else [_Pruner(study, number, self.prune)]
        try:
            if code := train(*gin_flags(run.flags), pruner):
                return code
            if (value := measure(run, self.metric)) is None:
                _LOGGER.warning('trial %d has no result: its %s is not a number', number, self.metric)
            study.tell(number, value, state=TrialState.FAIL if value is None else None)
        except optuna.TrialPruned:
            _LOGGER.info('trial %d is worse than the median and ends early', number)
            study.tell(number, state=TrialState.PRUNED)
        except UserError as error:
            if not run.has_diverged:
                raise
            _LOGGER.warning('trial %d failed: %s', number, error)
            study.tell(number, state=TrialState.FAIL)
        return 0

    def write_best(self, study: optuna.Study) -> Path:
        """Write the bindings of the best trial as `best.gin`, a file for `--gin_file`; return its path.

        Raises:
          UserError: no trial has finished.
        """
        if not any(trial.state.name == 'COMPLETE' for trial in study.trials):
            raise UserError(f'{self.directory}: no trial has finished.')
        best, path = study.best_trial, Path(self.directory) / 'best.gin'
        bindings = [flag.removeprefix('--gin.').replace('=', ' = ', 1) for flag in best.user_attrs['flags']]
        lines = [f'# {self.metric} {best.value:.6g}: trial {best.number} of {len(study.trials)}', *bindings]
        write_whole(path, '\n'.join(lines) + '\n')
        return path


class _Pruner:
    """A writer of metrics that ends a trial which does worse than the median of the trials before it."""

    def __init__(self, study: optuna.Study, number: int, metric: str):
        self._study, self._number, self._metric = study, number, metric

    def open(self, model_dir: Path, first_step: int, config: str) -> None:
        """Do nothing."""
        del model_dir, first_step, config

    def write(self, step: int, values: dict[str, float]) -> None:
        """Report a validation metric, and end the trial if Optuna says so.

        Raises:
          optuna.TrialPruned: the trial is to end.
          UserError: the validation has no such metric.
        """
        import optuna

        known = {name.removeprefix('validation/'): value for name, value in values.items() if 'validation/' in name}
        if not known:
            return
        if (value := known.get(self._metric)) is None:
            raise UserError(
                f'PRUNE_BY is {self._metric!r}, which the validation does not have.{closest(self._metric, known)} '
                f'It has {", ".join(known)}; None ends no trial early.'
            )
        trial = optuna.trial.Trial(self._study, self._study.trials[self._number]._trial_id)
        downwards = is_smaller_better(self._metric) == is_smaller_better(self._study.user_attrs['search']['metric'])
        trial.report(value if downwards else -value, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    def close(self) -> None:
        """Do nothing."""
