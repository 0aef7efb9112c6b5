"""Checkpoints by Orbax: asynchronous, atomic, and restored onto any mesh."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from palm_jax.checkpoint_metadata import METADATA, BestScore, CheckpointMetadata, metadata_folder, read_metadata
from palm_jax.errors import UserError
from palm_jax.parameters import path_name
from palm_jax.run_directory import STATE, RunDirectory, find_checkpoint, steps_in
from palm_jax.training import distributed, integrity
from palm_jax.training.metrics import Metrics, Ratio
from palm_jax.training.state import TrainState

logger = logging.getLogger(__name__)

# How Orbax, TensorStore and the system report that nothing can be written.
_UNWRITABLE = (
    *('No space left on device', 'Read-only file system', 'Disk quota exceeded'),
    *('File too large', 'Permission denied', 'Not a directory'),
)


class Checkpoints:
    """The checkpoints in one directory, a folder per step, with checksums.

    When the directory is opened, the newest checkpoint is verified. If a file is missing or changed, the checkpoint
    is renamed to `damaged-<step>` with a warning, and the one before it becomes the newest.

    Args:
      directory: folder of the checkpoints; created when missing.
      keep: number of the newest checkpoints to keep, and number of the newest scheduled ones.
      metadata: description of the run, stored with every checkpoint. If it names a `base`, frozen parameters are
        left out of the checkpoints.
      keep_every: checkpoints whose step is a multiple of this are kept for good; None: no others are.
      period: steps between scheduled checkpoints; a signal saves others in between.
    """

    def __init__(
        self,
        directory: Path,
        keep: int,
        metadata: CheckpointMetadata,
        keep_every: int | None = None,
        period: int = 1,
    ):
        self.directory, self._metadata = directory, metadata
        self._keep, self._keep_every, self._period = keep, keep_every, period
        with distributed.first_alone('checkpoints are checked'):
            if distributed.is_first():
                _set_damaged_aside(directory)
        options = ocp.CheckpointManagerOptions(enable_async_checkpointing=True)
        with self._as_user_error():
            self._manager = ocp.CheckpointManager(directory.absolute(), options=options)
        self._sealing: threading.Thread | None = None

    @property
    def latest(self) -> int | None:
        """The newest finished step, or None."""
        return self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """All finished steps, in ascending order."""
        return sorted(self._manager.all_steps())

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.directory / str(step)

    def metadata(self, step: int) -> CheckpointMetadata:
        """The metadata stored with a step."""
        return read_metadata(self.path(step))

    def saved_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays that a step holds, by path."""
        return {name: tuple(leaf.shape) for name, leaf in _saved_leaves(self.path(step))[1].items()}

    def shapes_of(self, state: TrainState) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays of a state that are saved, by path."""
        return {name: tuple(leaf.shape) for name, leaf in _leaves(self._saved_part(state)).items()}

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
          UserError: an earlier save failed.
        """
        if step == self.latest:
            return
        self.wait()
        sums = {name: (float(ratio.total), float(ratio.count)) for name, ratio in (unlogged or {}).items()}
        metadata = dataclasses.replace(self._metadata, unlogged=sums, recent=recent, best=best)
        items = {
            STATE: ocp.args.StandardSave(self._saved_part(state)),
            METADATA: ocp.args.JsonSave(metadata.to_json()),
        }
        with self._as_user_error():
            self._manager.save(step, args=ocp.args.Composite(**items))
        self._sealing = threading.Thread(target=self._seal, args=(step,), daemon=True)
        self._sealing.start()

    def _seal(self, step: int) -> None:
        """Stores the checksums once the asynchronous save has finished; `wait` reports what went wrong in it."""
        with contextlib.suppress(Exception):
            self._manager.wait_until_finished()
            integrity.seal(self.path(step))

    def restore(self, expected: TrainState, step: int | None = None) -> tuple[TrainState, Metrics | None]:
        """The state of a step, and the metric sums that were saved with it.

        Args:
          expected: arrays, or shapes with shardings; restored arrays get these shardings, whatever mesh they were
            saved from. Its frozen part is used where checkpoints leave theirs out.
          step: step to restore; None: the newest.

        Raises:
          UserError: there is no checkpoint, or it has another vocabulary, other labels or another base.
        """
        step = self.latest if step is None else step
        if step is None:
            raise UserError(f'{self.directory} holds no checkpoint.')
        saved = self.metadata(step)
        saved.check_compatible(self._metadata, self.path(step))
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self._saved_part(expected)
        )
        restored = self._manager.restore(step, args=ocp.args.Composite(**{STATE: ocp.args.StandardRestore(target)}))
        state = restored[STATE]
        if self._metadata.base:
            state = dataclasses.replace(state, frozen=expected.frozen)
        return state, {name: Ratio(*sums) for name, sums in saved.unlogged.items()} or None

    def _saved_part(self, state: TrainState) -> TrainState:
        return dataclasses.replace(state, frozen={}) if self._metadata.base else state

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
        self._prune()

    @property
    def due(self) -> list[int]:
        """The newest `keep` of the finished scheduled steps, which do not depend on signals in between."""
        return [step for step in self.steps if step % self._period == 0][-self._keep :]

    def _prune(self) -> None:
        """Deletes all but the newest `keep`, the newest `keep` scheduled ones, and multiples of `keep_every`."""
        kept = {*self.due, *self.steps[-self._keep :]}
        for step in self.steps:
            if step not in kept and not (self._keep_every and step % self._keep_every == 0):
                self._manager.delete(step)

    def preemption_agreed(self, step: int) -> bool:
        """Whether all processes agreed to stop after this step, because one of them received SIGTERM."""
        return distributed.are_several() and self._manager.reached_preemption(step)

    def forget_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps."""
        self.wait()
        for later in self.steps:
            if later > step:
                self._manager.delete(later)

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


def _set_damaged_aside(directory: Path) -> None:
    """Renames damaged checkpoints to `damaged-<step>`, from the newest to the first intact one, with a warning each."""
    steps = sorted((int(path.name) for path in directory.glob('*') if path.name.isdecimal()), reverse=True)
    for step in steps:
        found = integrity.problem(directory / str(step))
        if found is None:
            return
        aside = directory / f'damaged-{step}'
        shutil.rmtree(aside, ignore_errors=True)
        (directory / str(step)).rename(aside)
        earlier = [s for s in steps if s < step]
        then = f'the previous one, of step {earlier[0]:,}, is used' if earlier else 'there is no earlier one'
        logger.warning('checkpoint %s is damaged and was renamed to %s: %s; %s', f'{step:,}', aside.name, found, then)


def restore_params(path: str | Path, fresh: Any, run: CheckpointMetadata, may_be_new: tuple[str, ...] = ()) -> Any:
    """The parameters of another run's checkpoint, to start from.

    Args:
      path: a checkpoint or a MODEL_DIR, see `find_checkpoint`.
      fresh: initial parameters of the model; restored parameters get their shardings and dtypes.
      run: metadata of the run that uses the parameters; the vocabularies must agree.
      may_be_new: regular expressions of parameters that the checkpoint may lack; those keep their values from
        `fresh`. So does a head that may be new if the checkpoint's labels differ from the run's.

    Raises:
      UserError: there is no checkpoint, it has another vocabulary, or its parameters do not fit (each is listed).
    """
    checkpoint = find_checkpoint(path)
    integrity.check(checkpoint)
    metadata = read_metadata(checkpoint)
    metadata.check_vocabulary(run, checkpoint)
    may_be_new_path = re.compile('|'.join(may_be_new) or '(?!)').fullmatch
    keeps_head = metadata.labels == run.labels or not may_be_new_path('head/kernel')
    checkpointer, saved = _saved_leaves(checkpoint)
    # A stacked leaf whose top layers alone were trained is saved in two parts, the frozen layers first.
    sources = {
        path: [f'{part}/{path}' for part in ('frozen', 'params') if f'{part}/{path}' in saved]
        if keeps_head or not path.startswith('head/')
        else []
        for path in _leaves(fresh)
    }

    def shape(names: list[str]) -> tuple[int, ...]:
        (first, *rest), *others = (tuple(saved[name].shape) for name in names)
        return (first + sum(other[0] for other in others), *rest) if others else (first, *rest)

    wrong = [
        f'  {path}: {shape(found) if found else "missing"} there, {tuple(leaf.shape)} here'
        for (path, leaf), found in zip(_leaves(fresh).items(), sources.values(), strict=True)
        if (not found and not may_be_new_path(path)) or (found and shape(found) != tuple(leaf.shape))
    ]
    there = {path.partition('/')[2] for path in saved if path.startswith(('params/', 'frozen/'))}
    wrong += [
        f'  {path}: there, but this model has none'
        for path in sorted(there - sources.keys())
        if not path.startswith('head/')  # another head may replace the old one
    ]
    if wrong and metadata.base is not None:
        model_dir = str(RunDirectory.of_checkpoint(checkpoint))
        raise UserError(
            f'{checkpoint} holds only the trained parameters; the frozen ones are in the base it was trained on. '
            'Save both as one model and start from that:\n'
            f'  python -c "from palm_jax import api; api.load({model_dir!r}).save({f"{model_dir}_whole"!r})"'
        )
    if wrong:
        raise UserError(f'The parameters in {checkpoint} do not fit this model:\n' + '\n'.join(wrong))
    target: dict[str, Any] = {}
    for path, leaf in _leaves(fresh).items():
        for source in sources[path]:
            *branches, name = source.split('/')
            tree = target
            for branch in branches:
                tree = tree.setdefault(branch, {})
            tree[name] = jax.ShapeDtypeStruct(saved[source].shape, leaf.dtype, sharding=leaf.sharding)
    args = ocp.args.PyTreeRestore(
        target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
    )
    restored = _leaves(checkpointer.restore(checkpoint.absolute(), args=ocp.args.Composite(**{STATE: args}))[STATE])

    def pick(key_path, leaf):
        parts = [restored[source] for source in sources[path_name(key_path)]]
        return jnp.concatenate(parts) if len(parts) > 1 else (parts or [leaf])[0]

    return jax.tree_util.tree_map_with_path(pick, fresh)


def _saved_leaves(checkpoint: Path) -> tuple[ocp.Checkpointer, dict[str, Any]]:
    """A reader of a checkpoint, whose metadata can be read, and the descriptions of its arrays by path."""
    folder = metadata_folder(checkpoint)
    assert folder is not None, '`read_metadata` has read it'
    handlers = {STATE: ocp.PyTreeCheckpointHandler(), folder.name: ocp.JsonCheckpointHandler()}
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers))
    return checkpointer, _leaves(checkpointer.metadata(checkpoint.absolute()).item_metadata[STATE])


def fingerprint(params: Any) -> str:
    """A hash of the exact values of a tree of parameters: 16 hexadecimal digits, the same for every sharding.

    Each value's bits are mixed with its index and summed modulo 2³², so that the order of the additions does not
    matter; paths, shapes and sums are then hashed by SHA-256.
    """

    def mixed_sum(x):
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32 if x.dtype.itemsize == 4 else jnp.uint16).astype(jnp.uint32)
        index = sum(
            jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(pow(2654435761, axis + 1, 1 << 32))
            for axis in range(x.ndim)
        )
        h = (bits ^ index) * jnp.uint32(0x85EBCA6B)
        h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
        return jnp.sum(h ^ (h >> 16), dtype=jnp.uint32)

    leaves = _leaves(params)
    sums = jax.device_get(jax.jit(lambda leaves: {name: mixed_sum(x) for name, x in leaves.items()})(leaves))
    text = repr([(name, leaves[name].shape, int(sums[name])) for name in sorted(leaves)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path, `stack/attn/qkv/k`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, 'shape'))
    return {jax.tree_util.keystr(p, simple=True, separator='/'): x for p, x in leaves}
