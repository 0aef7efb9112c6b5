"""Checkpoints by Orbax: asynchronous, atomic, and restored onto any mesh."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from palm_jax.checkpoint_metadata import METADATA, BestScore, CheckpointMetadata, is_finished, read_metadata
from palm_jax.errors import UserError
from palm_jax.parameters import leaves_by_path
from palm_jax.run_directory import STATE, is_of_checkpoint, numbered, steps_in
from palm_jax.training import distributed, integrity
from palm_jax.training.initial_parameters import saved_leaves
from palm_jax.training.metrics import Metrics, Ratio
from palm_jax.training.state import TrainState

logger = logging.getLogger(__name__)

_SUPERSEDED = 'superseded'  # where checkpoints are moved to be deleted, so that none is seen half deleted
# How Orbax, TensorStore and the system report that nothing can be written.
_UNWRITABLE = (
    *('No space left on device', 'Read-only file system', 'Disk quota exceeded'),
    *('File too large', 'Permission denied', 'Not a directory'),
)


class Checkpoints:
    """The checkpoints in one directory, a folder per step, with checksums.

    A checkpoint is finished when its checksums are stored. When the directory is opened, the newest one is verified. If
    a file is missing or changed, the checkpoint is renamed to `damaged-<step>` with a warning, and the one before it
    becomes the newest; one that was not written to its end is renamed to `unfinished-<step>`. Other folders stay.

    Args:
      directory: folder of the checkpoints; created when missing.
      keep: number of the newest checkpoints to keep, and number of the newest scheduled ones.
      metadata: description of the run, stored with every checkpoint. If it names a `base`, frozen parameters are
        left out of the checkpoints.
      keep_every: checkpoints whose step is a multiple of this are kept for good; None: no others are.
      period: steps between scheduled checkpoints; a signal saves others in between.
      files: contents of the run's files by name, of which every checkpoint keeps a copy; see
        `run_directory.repair_files`.
      rewind_to: function that returns the steps to which the run may go back; for each of them, the newest checkpoint
        up to it is kept, too.
      skips: function that returns what the run has skipped so far, see `SpikeGuard.records`; each checkpoint keeps it.
    """

    def __init__(
        self,
        directory: Path,
        keep: int,
        metadata: CheckpointMetadata,
        keep_every: int | None = None,
        period: int = 1,
        files: Mapping[str, bytes] = types.MappingProxyType({}),
        rewind_to: Callable[[], Sequence[int]] = tuple,
        skips: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    ):
        self.directory, self._metadata = directory, dataclasses.replace(metadata, sealed=True)
        self._files, self._rewind_to, self._skips = files, rewind_to, skips
        self._keep, self._keep_every, self._period = keep, keep_every, period
        with distributed.first_alone('checkpoints are checked'):
            if distributed.is_first():
                _tidy(directory)
        options = ocp.CheckpointManagerOptions(enable_async_checkpointing=True, todelete_subdir=_SUPERSEDED)
        with self._as_user_error():
            self._manager = ocp.CheckpointManager(directory.absolute(), options=options)
        self._foreign = set(self._manager.all_steps()) - set(steps_in(directory))
        self._intact = set(self.steps[-1:])  # verified when the directory was opened
        self._sealing: threading.Thread | None = None
        self._failure: Exception | None = None

    @property
    def latest(self) -> int | None:
        """The newest finished step, or None."""
        return self.steps[-1] if self.steps else None

    @property
    def steps(self) -> list[int]:
        """All finished steps, in ascending order, and the one that is being saved."""
        return sorted(set(self._manager.all_steps()) - self._foreign)

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.directory / str(step)

    def metadata(self, step: int) -> CheckpointMetadata:
        """The metadata stored with a step."""
        return read_metadata(self.path(step))

    def saved_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays that a step holds, by path."""
        return {name: tuple(leaf.shape) for name, leaf in saved_leaves(self.path(step))[1].items()}

    def shapes_of(self, state: TrainState) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays of a state that are saved, by path."""
        return {name: tuple(leaf.shape) for name, leaf in leaves_by_path(self._saved_part(state)).items()}

    def save(
        self,
        state: TrainState,
        step: int,
        unlogged: Metrics | None = None,
        recent: Mapping[str, list[float]] | None = None,
        best: BestScore | None = None,
    ) -> None:
        """Starts an asynchronous save; returns once the state has been copied from the device.

        Args:
          state: training state; its frozen part is left out when the run's metadata name a base.
          step: number of the step; if it is the newest one already, nothing is saved.
          unlogged: metric sums since the last log line, so that a resumed run logs the same values.
          recent: recent values of the quantities watched for spikes, see `SpikeGuard`.
          best: the score that makes this the best checkpoint.

        Raises:
          UserError: an earlier save failed, or a folder of the user has the checkpoint's name.
        """
        if step == self.latest:
            return
        self.wait()
        if self.path(step).exists():
            raise UserError(
                f'Step {step:,} cannot be saved: {self.path(step)} exists and is not a checkpoint of this run. '
                'Move it elsewhere and rerun the same command.'
            )
        sums = {name: (float(ratio.total), float(ratio.count)) for name, ratio in (unlogged or {}).items()}
        skips = tuple(self._skips())
        metadata = dataclasses.replace(self._metadata, unlogged=sums, recent=recent, best=best, skips=skips)
        items = {
            STATE: ocp.args.StandardSave(self._saved_part(state)),
            METADATA: ocp.args.JsonSave(metadata.to_json()),
        }
        with self._as_user_error():
            # Without `force`, Orbax saves no step below the number of any folder, whoever made that.
            if not self._manager.save(step, args=ocp.args.Composite(**items), force=True):
                raise UserError(f'Orbax declined to save step {step:,} in {self.directory}: it is not saved.')
        self._sealing = threading.Thread(target=self._seal, args=(step,), daemon=True)
        self._sealing.start()

    def _seal(self, step: int) -> None:
        """Stores the checksums once the asynchronous save has finished; `wait` reports what went wrong in it."""
        try:
            self._manager.wait_until_finished()
            integrity.seal(self.path(step), self._files)
        except Exception as error:
            self._failure = error
        else:
            self._intact.add(step)

    def restore(self, expected: TrainState, step: int | None = None) -> tuple[TrainState, Metrics | None]:
        """The state of a step, and the metric sums that were saved with it.

        Args:
          expected: arrays, or shapes with shardings; restored arrays get these shardings, whatever mesh they were
            saved from. Its frozen part is used where checkpoints leave theirs out.
          step: step to restore; None: the newest.

        Raises:
          UserError: there is no checkpoint, it is damaged, or it has another vocabulary, other labels or another base.
        """
        step = self.latest if step is None else step
        if step is None:
            raise UserError(f'{self.directory} holds no checkpoint.')
        if step not in self._intact:
            integrity.check(self.path(step))
        saved = self.metadata(step)
        saved.check_compatible(self._metadata, self.path(step))
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self._saved_part(expected)
        )
        restored = self._manager.restore(step, args=ocp.args.Composite(**{STATE: ocp.args.StandardRestore(target)}))
        state = TrainState(**restored[STATE])
        if self._metadata.base:
            state = dataclasses.replace(state, frozen=expected.frozen)
        return state, {name: Ratio(*sums) for name, sums in saved.unlogged.items()} or None

    def _saved_part(self, state: TrainState) -> dict[str, Any]:
        parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        for name in ('anchor', 'wrapper_state'):
            if not parts[name]:
                del parts[name]
        return parts | {'frozen': {}} if self._metadata.base else parts

    def wait(self) -> None:
        """Waits until the last save is on disk with its checksums, then deletes superseded checkpoints.

        Raises:
          UserError: it could not be saved.
        """
        if self._sealing is None:
            return
        self._sealing.join()
        self._sealing = None
        with self._as_user_error():
            self._manager.wait_until_finished()
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
        distributed.wait_for_all('the checkpoint is sealed')
        self._delete_superseded()

    @property
    def due(self) -> list[int]:
        """The newest `keep` of the finished scheduled steps, which do not depend on signals in between."""
        return [step for step in self.steps if step % self._period == 0][-self._keep :]

    def _delete_superseded(self) -> None:
        """Deletes all but the newest `keep`, the newest `keep` scheduled ones, multiples of `keep_every`, and what a
        run that goes back needs.
        """
        steps = self.steps
        kept = {*self.due, *steps[-self._keep :]}
        kept.update(max((step for step in steps if step <= back), default=-1) for back in self._rewind_to())
        superseded = [step for step in steps if step not in kept]
        self._delete([step for step in superseded if not (self._keep_every and step % self._keep_every == 0)])
        if distributed.is_first() and steps:
            shutil.rmtree(self.directory / f'unfinished-{steps[-1]}', ignore_errors=True)  # it is saved now

    def _delete(self, steps: Sequence[int]) -> None:
        """Deletes checkpoints, the newest first, each of them at one moment."""
        for step in sorted(steps, reverse=True):
            self._manager.delete(step)
            self._intact.discard(step)
        if distributed.is_first():
            shutil.rmtree(self.directory / _SUPERSEDED, ignore_errors=True)

    def preemption_agreed(self, step: int) -> bool:
        """Whether all processes agreed to stop after this step, because one of them received SIGTERM."""
        return distributed.are_several() and self._manager.reached_preemption(step)

    def forget_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, the newest first."""
        self.wait()
        self._delete([later for later in self.steps if later > step])

    def is_intact(self, step: int) -> bool:
        """Whether a checkpoint can be restored; a damaged one is renamed to `damaged-<step>` with a warning."""
        if step in self._intact:
            return True
        with distributed.first_alone('a checkpoint is checked'):
            if distributed.is_first():
                found = integrity.problem(self.path(step))
                if found is not None:
                    _set_aside(self.path(step), 'is damaged', 'damaged', f': {found}')
        if not self.path(step).exists():
            self._manager.reload()
            return False
        self._intact.add(step)
        return True

    def skips_by_step(self) -> dict[int, Sequence[Mapping[str, Any]] | None]:
        """What the run had skipped at each finished step; None where a checkpoint does not say."""
        return {step: self.metadata(step).skips for step in self.steps if self.is_intact(step)}

    def close(self) -> None:
        """Waits for pending saves and closes the manager."""
        self.wait()
        self._manager.close()

    @contextlib.contextmanager
    def _as_user_error(self) -> Iterator[None]:
        """Turns a failure to write into a message that names the last intact checkpoint."""
        try:
            yield
        except Exception as error:
            reason = next((text for text in _UNWRITABLE if text.lower() in f'{error!r}'.lower()), None)
            if reason is None and not isinstance(error, OSError):
                raise
            intact = steps_in(self.directory)
            safe = f'{self.path(intact[-1])} is intact' if intact else 'There is no earlier checkpoint'
            raise UserError(
                f'A checkpoint could not be written to {self.directory}: {reason or error}. {safe}. '
                'Free some space (or name another MODEL_DIR) and rerun the same command.'
            ) from None


def _tidy(directory: Path) -> None:
    """Renames checkpoints that are damaged or were not written to their end, down to the newest intact one."""
    shutil.rmtree(directory / _SUPERSEDED, ignore_errors=True)
    for folder in numbered(directory):
        if not is_of_checkpoint(folder):
            logger.warning(
                '%s is not a checkpoint and is left alone. Move it elsewhere if the run is to save step %s.',
                *(folder, f'{int(folder.name):,}'),
            )
        elif not is_finished(folder) and (folder / STATE).is_dir():
            _set_aside(folder, 'was not written to its end', 'unfinished')
    folders = [folder for folder in numbered(directory) if is_of_checkpoint(folder)]
    while folders:
        newest = folders.pop()
        found = integrity.problem(newest)
        if found is None:
            if not integrity.has_checksums(newest):
                logger.warning('%s has no checksums, as in earlier versions: damage would not be noticed', newest)
            return
        then = f'the previous one, of step {int(folders[-1].name):,}, is used' if folders else 'there is no earlier one'
        _set_aside(newest, 'is damaged', 'damaged', f': {found}; {then}')


def _set_aside(checkpoint: Path, reason: str, prefix: str, rest: str = '') -> None:
    aside = checkpoint.with_name(f'{prefix}-{checkpoint.name}')
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)
    logger.warning('checkpoint %s %s and was renamed to %s%s', f'{int(checkpoint.name):,}', reason, aside.name, rest)
