"""A checkpoint's description of itself and its checksums: JSON beside its arrays, read without touching an array."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from palm_jax.errors import UserError

METADATA = 'metadata'  # the folder in a checkpoint that holds it; Orbax calls it an item
_FILE = 'metadata'  # in that folder
_SEAL = 'checksums-{process}.json'  # in a checkpoint's folder, a file per process

# Spellings of checkpoints written before 26 November 2026.
_FORMER_FOLDER = 'about'
_FORMER_METRIC = 'measure'


@dataclasses.dataclass(frozen=True)
class BestScore:
    """Why a checkpoint was kept as the best one.

    Attributes:
      metric: name of the validation metric, as in BEST_METRIC.
      value: its value at this checkpoint.
    """

    metric: str
    value: float


@dataclasses.dataclass(frozen=True)
class CheckpointMetadata:
    """The JSON stored with a checkpoint.

    Attributes:
      vocabulary: fingerprint of the vocabulary, `bytes` for the byte vocabulary; None if unknown.
      architecture: fields of the model's `Architecture`; None if unknown.
      labels: names of the head's classes in the order of its outputs; None without such a head.
      data: what the run has read of each split, see `interfaces.Data.identity`; None if unknown.
      base: fingerprint of the frozen parameters that the checkpoint leaves out; None if it holds all parameters.
      teacher: fingerprint of the models that the run learns from, see `training.teachers`; None without any.
      unlogged: (total, count) of each metric, summed since the last log line.
      recent: recent values of the quantities that are watched for spikes, by name; None if none are watched.
      best: the score that made this checkpoint the best one; None for other checkpoints.
      skips: batches that the run had skipped after loss spikes, see `SpikeGuard`; None in checkpoints that do not say.
      sealed: whether the checkpoint is finished only with its checksums; False in checkpoints of versions that could
        leave a finished checkpoint without any.
    """

    vocabulary: str | None = None
    architecture: Mapping[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    data: Mapping[str, Mapping[str, Any]] | None = None
    base: str | None = None
    teacher: str | None = None
    unlogged: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    recent: Mapping[str, list[float]] | None = None
    best: BestScore | None = None
    skips: tuple[Mapping[str, Any], ...] | None = None
    sealed: bool = False

    @classmethod
    def of_model(
        cls,
        architecture: Any,
        vocabulary: str,
        labels: Iterable[str] = (),
        data: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> CheckpointMetadata:
        """Metadata of a whole model.

        Args:
          architecture: the model's `Architecture`.
          vocabulary: fingerprint of its vocabulary.
          labels: names of its head's classes; empty without such a head.
          data: what the run reads of each split, see `interfaces.Data.identity`; None if it is not known.
        """
        return cls(vocabulary, dataclasses.asdict(architecture), tuple(labels) or None, data)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> CheckpointMetadata:
        """Metadata from the JSON object of a checkpoint, in the present or the former spelling; unknown keys are
        ignored.
        """
        labels, best = record.get('labels'), record.get('best')
        return cls(
            vocabulary=record.get('vocabulary'),
            architecture=record.get('architecture'),
            labels=None if labels is None else tuple(labels),
            data=record.get('data'),
            base=record.get('base'),
            teacher=record.get('teacher'),
            unlogged={name: (total, count) for name, (total, count) in record.get('unlogged', {}).items()},
            recent=record.get('recent'),
            best=BestScore(best.get('metric', best.get(_FORMER_METRIC)), best['value']) if best else None,
            skips=None if record.get('skips') is None else tuple(record['skips']),
            sealed=bool(record.get('sealed', False)),
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object; what is None is left out."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def check_vocabulary(self, run: CheckpointMetadata, checkpoint: Path) -> None:
        """Refuses a checkpoint whose token ids mean other text than a run's.

        Args:
          run: metadata of the run that is to use the checkpoint.
          checkpoint: its path, for the message.
        """
        if self.vocabulary != run.vocabulary:
            raise UserError(
                f'{checkpoint} was trained with the vocabulary {self.vocabulary}, but this run uses {run.vocabulary}, '
                'in which the same token ids mean other text. With --gin_file=gin/models/pretrained.gin a run takes '
                'model size and vocabulary from its INITIAL_CHECKPOINT_PATH; or bind VOCABULARY to the right file.'
            )

    def check_compatible(self, run: CheckpointMetadata, checkpoint: Path) -> None:
        """Refuses to continue a run from a checkpoint with another vocabulary, other labels, base or teacher.

        Args:
          run: metadata of the run that is to be continued.
          checkpoint: path of this checkpoint, for the message.

        Raises:
          UserError: with both values.
        """
        self.check_vocabulary(run, checkpoint)
        if self.labels != run.labels:
            raise UserError(
                f'{checkpoint} was trained with the labels {_listed(self.labels)}, but the data now has '
                f'{_listed(run.labels)}. Continue with the data that the run began with, or in another MODEL_DIR.'
            )
        if self.base != run.base:
            raise UserError(
                f'{checkpoint} was trained on top of the base {self.base}, but INITIAL_CHECKPOINT_PATH holds '
                f'{run.base}. Name the checkpoint that the run began with.'
            )
        if self.teacher != run.teacher:
            raise UserError(
                f'{checkpoint} has learned from the teacher {self.teacher}, but TEACHER_CHECKPOINT_PATH holds '
                f'{run.teacher}. Name the one that the run began with, or another MODEL_DIR.'
            )


def _listed(labels: tuple[str, ...] | None) -> list[str] | None:
    return None if labels is None else list(labels)


def metadata_folder(checkpoint: Path) -> Path | None:
    """The folder of a checkpoint's metadata, or None."""
    folders = (checkpoint / name for name in (METADATA, _FORMER_FOLDER))
    return next((folder for folder in folders if folder.is_dir()), None)


def read_metadata(checkpoint: Path) -> CheckpointMetadata:
    """The metadata of a checkpoint.

    Raises:
      UserError: it is missing or damaged.
    """
    folder = metadata_folder(checkpoint)
    if folder is None or not (folder / _FILE).is_file():
        raise UserError(f'{checkpoint} has no `{METADATA}` folder: the checkpoint is incomplete.')
    try:
        return CheckpointMetadata.from_json(json.loads((folder / _FILE).read_text(encoding='utf-8')))
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise UserError(f'{folder / _FILE} is damaged: {error}.') from None


@dataclasses.dataclass(frozen=True)
class Seal:
    """Checksums of the files that one process wrote or verified; a checkpoint is finished when it has all seals.

    Attributes:
      files: SHA-256 by path in the checkpoint.
      step: step that was saved; None in a seal of an earlier version.
      processes: number of processes, each of which leaves a seal; None in a seal of an earlier version.
    """

    files: Mapping[str, str]
    step: int | None = None
    processes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object with a checksum of its own."""
        record = dataclasses.asdict(self)
        return record | {'seal': _digest(record)}

    @classmethod
    def from_json(cls, record: Any) -> Seal:
        """The seal of a JSON object, in the present form or in that of earlier versions (`files` alone).

        Raises:
          ValueError: it is neither, it names no file, or it has been changed.
        """
        if not isinstance(record, dict) or not record:
            raise ValueError('it names no file')
        if 'seal' in record:
            stored = record.pop('seal')
            if _digest(record) != stored:
                raise ValueError('it has been changed')
            return cls(**record)
        if not all(isinstance(checksum, str) for checksum in record.values()):
            raise ValueError('it does not hold checksums')
        return cls(record)


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def seal_file(checkpoint: Path, process: int | str) -> Path:
    """The file of a process's seal; a pattern for `*`."""
    return checkpoint / _SEAL.format(process=process)


def read_seals(checkpoint: Path) -> list[Seal]:
    """The seals of a checkpoint, in the order of the processes.

    Raises:
      UserError: one is damaged.
    """
    seals = []
    for file in sorted(checkpoint.glob(seal_file(checkpoint, '*').name)):
        try:
            seals.append(Seal.from_json(json.loads(file.read_text(encoding='utf-8'))))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise UserError(f'{file} is damaged: {error}') from None
    return seals


def is_finished(checkpoint: Path) -> bool:
    """Whether a checkpoint has been written to its end, whatever has happened to it since.

    It has all its seals. A checkpoint of an earlier version, which its metadata tells, may have none.
    """
    try:
        seals = read_seals(checkpoint)
    except UserError:
        return True
    if seals:
        return seals[0].processes in (None, len(seals))
    try:
        return not read_metadata(checkpoint).sealed
    except UserError:
        return False
