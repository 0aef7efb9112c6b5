"""Tasks that one model learns one after another, and what it still knows of all of them after each."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Protocol

from palm_jax.bounds import AtLeast, AtMost, NotEmpty, Seed, checked
from palm_jax.configuration.compose import render
from palm_jax.configuration.flags import gin_flags
from palm_jax.errors import UserError, closest, located
from palm_jax.run_directory import RunDirectory
from palm_jax.studies import runs
from palm_jax.studies.continual_scores import ScoreFile
from palm_jax.studies.runs import StudyRun
from palm_jax.wording import shell_command

_LOGGER = logging.getLogger(__name__)

OWN = {
    'MODEL_DIR': 'a folder of STUDY_DIR for every task',
    'INITIAL_CHECKPOINT_PATH': 'FLAGS has the base, and every later task starts from the model of the one before',
}
_FISHER, _FILES = '{fisher}', '{earlier_files}'

Flags = Sequence[str]


@dataclasses.dataclass(frozen=True)
class TaskRead:
    """What the configuration of a task says.

    Attributes:
      labels: names of the classes of its data; empty without a head, and for numbers.
      form: what the model of all tasks must have in common: the kind of its head and its loss.
      files: files, folders and registered tasks that it is trained on, as REPLAY_FILES takes them.
      has_labels_of_its_own: whether LABELS is bound.
    """

    labels: tuple[str, ...]
    form: str
    files: tuple[str, ...]
    has_labels_of_its_own: bool = False


class Tools(Protocol):
    """What tasks are trained and measured with; see `cli.continual_tools`."""

    def read(self, flags: Flags) -> TaskRead:
        """Build what a task's run is made of, and read its data; raise UserError if the run could not begin."""

    def train(self, gin_files: Flags, bindings: Sequence[tuple[str, str]], command: str) -> int:
        """Train or continue a run; see `api.training.train`."""

    def evaluate(self, model_dir: Path | None, tasks: Sequence[Flags]) -> list[dict[str, float]]:
        """Return the metrics of the held-out part of every task; of the first task's model at its start for None."""

    def save_whole(self, model_dir: Path, to: Path) -> Path:
        """Write a run as a base for the next one, unless it is one already; return the directory of the base."""

    def write_fisher(self, model_dir: Path, output: Path, earlier: Path | None, settings: FisherSettings) -> None:
        """Write the Fisher information of a run, added to that of the earlier tasks; see `palm-jax fisher`."""


@checked
@dataclasses.dataclass(frozen=True)
class FisherSettings:
    """How the Fisher information of a task is measured for EWC.

    Attributes:
      rows: number of training rows.
      targets: `model` draws targets from the model's predictions; `data` takes the table's.
      decay: factor γ of the earlier tasks' (online EWC).
      seed: seed for rows and targets.
    """

    rows: Annotated[int, AtLeast(1)] = 256
    targets: Literal['model', 'data'] = 'model'
    decay: Annotated[float, AtLeast(0), AtMost(1)] = 1.0
    seed: Seed = 0


@checked
@dataclasses.dataclass(frozen=True)
class Continual:
    """Tasks in their order.

    Attributes:
      directory: directory of the study; the run of task i is in DIRECTORY/i_TASK.
      flags: flags of `palm-jax train` that all tasks share, INITIAL_CHECKPOINT_PATH (the base of the first) among them.
      tasks: further flags of each task, by its name, in the order in which they are learned.
      later_flags: further flags from the second task on: what keeps the model from forgetting. `{earlier_files}` stands
        for the list of what the tasks before are trained on, `{fisher}` for the Fisher information of them.
      metric: metric of the held-out parts, as `palm-jax eval` names it. Losses, errors, perplexities and bits per byte
        are better when smaller, all others when larger.
      fisher: how `{fisher}` is measured.
    """

    directory: Annotated[str, NotEmpty()]
    flags: Annotated[Flags, NotEmpty()]
    tasks: Annotated[Mapping[str, Flags], NotEmpty()]
    later_flags: Flags = ()
    metric: Annotated[str, NotEmpty()] = 'accuracy'
    fisher: FisherSettings = FisherSettings()

    def __post_init__(self) -> None:
        names = [_folder(task) for task in self.tasks]
        if len(names) < 2:
            raise UserError(
                "TASKS has one task; name at least two: {'first': ['--gin.TRAIN_FILES=...'], 'second': ...}."
            )
        if twice := [task for task, name in zip(self.tasks, names, strict=True) if names.count(name) > 1]:
            raise UserError(
                f'TASKS: {", ".join(map(repr, twice))} have the same folder {_folder(twice[0])!r}; rename one.'
            )
        if not all(names):
            raise UserError('TASKS: the name of a task must have a letter or a digit.')

    def run_directory(self, number: int) -> RunDirectory:
        """Return the MODEL_DIR of task `number`, from 0."""
        return RunDirectory(Path(self.directory) / f'{number + 1}_{_folder(list(self.tasks)[number])}')

    def fisher_path(self, number: int) -> Path:
        """Return the file with the Fisher information of the tasks up to `number`."""
        path = self.run_directory(number).path
        return path.with_name(f'{path.name}.fisher.npz')

    def whole_path(self, number: int) -> Path:
        """Return the directory of the model of task `number` as a base."""
        path = self.run_directory(number).path
        return path.with_name(f'{path.name}_whole')

    @property
    def scores(self) -> ScoreFile:
        """File with the scores so far."""
        return ScoreFile(Path(self.directory) / 'scores.json', self.metric, list(self.tasks))

    def check(self, tools: Tools) -> tuple[list[str], list[TaskRead]]:
        """Read all configurations and tables, so that a mistake in the last task is found before the first trains.

        Nothing is written.

        Returns:
          Flags for all tasks (LABELS of all of them, if their labels differ), and what their configurations say.

        Raises:
          UserError: a task cannot be trained, one model cannot learn all of them, or the directory holds runs with
            other flags or of another study.
        """
        found: list[TaskRead] = []
        for number, task in enumerate(self.tasks):
            with located(f'TASKS[{task!r}]'):
                runs.check(self._own_flags(number), {'MODEL_DIR': OWN['MODEL_DIR']})
                _refuse_own(self.tasks[task])
                found.append(tools.read(self._own_flags(number)))
        self._check_later(found)
        for name, read in zip(self.tasks, found, strict=True):
            if read.form != found[0].form:
                raise UserError(
                    f'TASKS: one model learns all tasks, and {name!r} has {read.form}, where '
                    f'{next(iter(self.tasks))!r} has {found[0].form}. Give all of them the same head.'
                )
        shared = self._labels(found)
        for number, task in enumerate(self.tasks):  # with the labels of all, and what keeps from forgetting
            with located(f'TASKS[{task!r}] with LATER_FLAGS' if number else f'TASKS[{task!r}]'):
                if shared or (number and self.later_flags):
                    tools.read([*self._own_flags(number), *shared, *self._later(number, found)])
        self.scores.read()
        for number in range(len(self.tasks)):
            run = self._run(number, shared, found)
            run.check(() if number == 0 else ('INITIAL_CHECKPOINT_PATH',))
            if not run.is_finished:
                self._refuse_later(number)
        return shared, found

    def _labels(self, found: Sequence[TaskRead]) -> list[str]:
        union = list(dict.fromkeys(label for task in found for label in task.labels))
        if all(task.labels == tuple(union) for task in found):
            return []
        if any(task.has_labels_of_its_own for task in found):
            raise UserError(
                f'LABELS of the tasks differ, and one model learns all. Bind it once, in FLAGS, to the {len(union)} '
                'labels of all of them, or leave it out.'
            )
        return [f'--gin.LABELS={render(union)}']

    def _check_later(self, found: Sequence[TaskRead]) -> None:
        with located('LATER_FLAGS'):
            _refuse_own(self.later_flags)
            for flag in self.later_flags:
                for name in re.findall(r'\{(\w+)\}', flag):
                    if f'{{{name}}}' not in (_FISHER, _FILES):
                        raise UserError(
                            f'{flag!r} names {{{name}}}.{closest(name, ["fisher", "earlier_files"])} It can name '
                            f'{_FISHER} and {_FILES}.'
                        )
            if any(_FILES in flag for flag in self.later_flags) and not all(task.files for task in found[:-1]):
                raise UserError(f'{_FILES} is the list of the files of earlier tasks, and not every task has such.')

    def _own_flags(self, number: int) -> list[str]:
        return [*self.flags, *list(self.tasks.values())[number]]

    def _later(self, number: int, found: Sequence[TaskRead]) -> list[str]:
        """LATER_FLAGS for task `number`, from 0; none for the first."""
        if number == 0:
            return []
        files, fisher = (
            render([file for task in found[:number] for file in task.files]),
            render(str(self.fisher_path(number - 1))),
        )
        return [flag.replace(_FILES, files).replace(_FISHER, fisher) for flag in self.later_flags]

    def train(self, tools: Tools) -> int:
        """Train and measure what is not finished.

        Args:
          tools: what it is trained with.

        Returns:
          0, or the exit code of the run that a signal interrupted.

        Raises:
          UserError: see `check`; or a run diverged, or the held-out part has no such metric.
        """
        shared, found = self.check(tools)
        measured_with = [[*self._own_flags(number), *shared] for number in range(len(self.tasks))]
        rows = self.scores.read()
        if not rows:
            _LOGGER.info('=== the model before the first task is measured')
            rows = self.scores.add(rows, tools.evaluate(None, measured_with))
        base: Path | None = None
        for number, task in enumerate(self.tasks):
            run = self._run(number, shared, found, base)
            run.begin()
            if not run.is_finished:
                rows = self.scores.write(rows[: number + 1])  # later scores are of a run that is gone
                self._forget(number)
                _LOGGER.info('\n=== task %d of %d: %s', number + 1, len(self.tasks), task)
                if code := tools.train(*gin_flags(run.flags), shell_command(['palm-jax', 'train', *run.flags])):
                    return code
            if len(rows) < number + 2:
                rows = self.scores.add(rows, tools.evaluate(run.directory.path, measured_with))
            if number + 1 < len(self.tasks):
                base = tools.save_whole(run.directory.path, self.whole_path(number))
                self._write_fisher(tools, number)
        return 0

    def _run(self, number: int, shared: Sequence[str], found: Sequence[TaskRead], base: Path | None = None) -> StudyRun:
        """Return the run of task `number`, which starts from a base; None is that of its flags."""
        directory = self.run_directory(number)
        start = [] if base is None else [f'--gin.INITIAL_CHECKPOINT_PATH={str(base)!r}']
        flags = [*self._own_flags(number), *shared, *self._later(number, found), *start]
        return StudyRun(list(self.tasks)[number], (*flags, f'--gin.MODEL_DIR={str(directory)!r}'), directory)

    def _forget(self, number: int) -> None:
        """Remove what was made of an earlier run of a task that is trained now.

        Raises:
          UserError: see `_refuse_later`.
        """
        self._refuse_later(number)
        shutil.rmtree(self.whole_path(number), ignore_errors=True)
        self.fisher_path(number).unlink(missing_ok=True)

    def _refuse_later(self, number: int) -> None:
        """Refuse to train a task that later ones began from.

        Raises:
          UserError: a later task was trained from a run that is gone.
        """
        later = [self.run_directory(i).path for i in range(number + 1, len(self.tasks))]
        if begun := [str(path) for path in later if path.exists()]:
            raise UserError(
                f'{", ".join(begun)} began from an earlier run of {list(self.tasks)[number]!r}, which is to be trained '
                f'again. Train the later tasks again, too: {shell_command(["rm", "-r", *begun])}'
            )

    def _write_fisher(self, tools: Tools, number: int) -> None:
        output = self.fisher_path(number)
        if output.exists() or not any(_FISHER in flag for flag in self.later_flags):
            return
        _LOGGER.info('=== the Fisher information of %s is measured', list(self.tasks)[number])
        unfinished = output.with_name(f'unfinished_{output.name}')
        earlier = self.fisher_path(number - 1) if number else None
        tools.write_fisher(self.run_directory(number).path, unfinished, earlier, self.fisher)
        os.replace(unfinished, output)


def _refuse_own(flags: Flags) -> None:
    """Refuse flags that the study would override in silence."""
    for name, instead in OWN.items():
        if name in dict(gin_flags(flags)[1]):
            raise UserError(f'--gin.{name} has no effect here: {instead}.')


def _folder(task: str) -> str:
    """Return the name of a task's folder: its letters and digits."""
    return re.sub(r'[^\w.-]+', '_', task).strip('._-').lower()
