"""Checkpoints by Orbax: asynchronous, atomic, sharded as the run is."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from palm_jax.errors import UserError
from palm_jax.parameters import path_name
from palm_jax.training import distributed, integrity
from palm_jax.training.metrics import Metrics, Ratio
from palm_jax.training.pretrained import ABOUT, STATE, check_vocabulary, read_about, step_directory
from palm_jax.training.state import TrainState

# How Orbax, TensorStore and the system say that nothing can be written.
_UNWRITABLE = (
    *('No space left on device', 'Read-only file system', 'Disk quota exceeded'),
    *('File too large', 'Permission denied', 'Not a directory'),
)


# Orbax logs errors of its threads with their stacks, and raises them again where they are told here.
logging.getLogger('absl').addFilter(lambda record: record.levelno < logging.ERROR or '/orbax/' not in record.pathname)
logging.getLogger('asyncio').addFilter(lambda record: 'OCDBT' not in record.getMessage())


class Checkpoints:
    """The checkpoints below one directory, a folder a step, with checksums.

    A newest one that is damaged (a file that is missing, cut or changed) is named and set aside when the directory is
    opened, and the one before it counts as the newest.

    Args:
      directory: created when missing.
      keep: how many of the newest stay, and of the newest that were due.
      about: JSON kept with every checkpoint: `vocabulary`, `architecture`, and `base`, the
        fingerprint of frozen parameters that the checkpoints leave out, or None.
      keep_every: besides, those whose step this divides stay.
      period: those whose step this divides are due; a signal saves others.
    """

    def __init__(
        self, directory: Path, keep: int, about: dict[str, Any], keep_every: int | None = None, period: int = 1
    ):
        self.directory, self._about = directory, about
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
        """All finished steps, in order."""
        return sorted(self._manager.all_steps())

    def path(self, step: int) -> Path:
        """Where a step's checkpoint lies."""
        return self.directory / str(step)

    def about(self, step: int) -> dict[str, Any]:
        """The JSON that was kept with a step."""
        return read_about(self.path(step))

    def save(
        self, state: TrainState, step: int, unlogged: Metrics | None = None, notes: Mapping[str, Any] | None = None
    ) -> None:
        """Starts writing; returns once the state has been copied from the device.

        Args:
          state: its frozen part is left out when `about` names a base.
          step: nothing is written when it is there already.
          unlogged: sums of metrics since the last log line, so that a resumed run logs the same.
          notes: more JSON to keep with it.
        """
        if step == self.latest:
            return
        self.wait()
        sums = {name: [float(ratio.total), float(ratio.count)] for name, ratio in (unlogged or {}).items()}
        items = {
            STATE: ocp.args.StandardSave(self._saved(state)),
            ABOUT: ocp.args.JsonSave(self._about | {'unlogged': sums} | dict(notes or {})),
        }
        with self._as_user_error():
            self._manager.save(step, args=ocp.args.Composite(**items))
        self._sealing = threading.Thread(target=self._seal, args=(step,), daemon=True)
        self._sealing.start()

    def _seal(self, step: int) -> None:
        """Behind the asynchronous save, when its folder has its name; what went wrong there, `wait` tells."""
        with contextlib.suppress(Exception):
            self._manager.wait_until_finished()
            integrity.seal(self.path(step))

    def restore(self, expected: TrainState, step: int | None = None) -> tuple[TrainState, Metrics | None]:
        """The state of a step, and the metrics' sums that `save` was given.

        Args:
          step: None is the newest.
          expected: shapes with shardings (or arrays that have both); every array is placed so,
            whatever mesh it was saved from. Its frozen part stays where checkpoints have none.

        Raises:
          UserError: another vocabulary, or another base.
        """
        step = self.latest if step is None else step
        about = read_about(self.path(step))
        check_vocabulary(about, self._about, self.path(step))
        if about.get('labels') != self._about.get('labels'):
            raise UserError(
                f'{self.path(step)} knows the labels {about.get("labels")}, but the data now has '
                f'{self._about.get("labels")}. Continue with the data that the run began with.'
            )
        if about.get('base') != self._about.get('base'):
            raise UserError(
                f'{self.path(step)} holds what was trained on top of the base {about.get("base")}, '
                f'but INITIAL_CHECKPOINT_PATH holds {self._about.get("base")}. '
                'Name the checkpoint that the run began with.'
            )
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self._saved(expected)
        )
        restored = self._manager.restore(step, args=ocp.args.Composite(**{STATE: ocp.args.StandardRestore(target)}))
        state = restored[STATE]
        if self._about.get('base'):
            state = dataclasses.replace(state, frozen=expected.frozen)
        unlogged = {name: Ratio(*sums) for name, sums in about.get('unlogged', {}).items()}
        return state, unlogged or None

    def _saved(self, state: TrainState) -> TrainState:
        return dataclasses.replace(state, frozen={}) if self._about.get('base') else state

    def wait(self) -> None:
        """Until what was saved is on disk, with its checksums.

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
        """The newest `keep` of the finished steps that were due: the same, whatever signals came in between."""
        return [step for step in self.steps if step % self._period == 0][-self._keep :]

    def _prune(self) -> None:
        """Deletes what has been replaced: behind the newest `keep` of all, and of those that were due."""
        kept = {*self.due, *self.steps[-self._keep :]}
        for step in self.steps:
            if step not in kept and not (self._keep_every and step % self._keep_every == 0):
                self._manager.delete(step)

    def preemption_agreed(self, step: int) -> bool:
        """Whether several processes are to end after this step, because one of them got SIGTERM; the same for all."""
        return distributed.are_several() and self._manager.reached_preemption(step)

    def forget_after(self, step: int) -> None:
        """Deletes what was saved beyond a step."""
        self.wait()
        for later in self.steps:
            if later > step:
                self._manager.delete(later)

    def close(self) -> None:
        """Waits and lets go."""
        self.wait()
        self._manager.close()

    @contextlib.contextmanager
    def _as_user_error(self) -> Iterator[None]:
        """What keeps a checkpoint from being written, as a message that says what is safe."""
        try:
            yield
        except Exception as error:
            reason = next((text for text in _UNWRITABLE if text.lower() in f'{error!r}'.lower()), None)
            if reason is None and not isinstance(error, OSError):
                raise
            whole = sorted(int(p.parent.name) for p in self.directory.glob(f'*/{STATE}') if p.parent.name.isdigit())
            safe = f'{self.path(whole[-1])} is whole' if whole else 'There is no earlier checkpoint'
            raise UserError(
                f'A checkpoint could not be written to {self.directory}: {reason or error}. {safe}. '
                'Make room (or name another MODEL_DIR), and give the same command again.'
            ) from None


def _set_damaged_aside(directory: Path) -> None:
    """Renames what is newest and damaged to `damaged-<step>`, until one is sound, and says so."""
    steps = sorted((int(path.name) for path in directory.glob('*') if path.name.isdigit()), reverse=True)
    for step in steps:
        found = integrity.problem(directory / str(step))
        if found is None:
            return
        aside = directory / f'damaged-{step}'
        shutil.rmtree(aside, ignore_errors=True)
        (directory / str(step)).rename(aside)
        before = [s for s in steps if s < step]
        then = f'the one before, of step {before[0]:,}, is used' if before else 'there is none before it'
        print(f'checkpoint {step:,} is damaged and set aside as {aside.name}: {found}; {then}', file=sys.stderr)


def restore_params(path: str, fresh: Any, about: dict[str, Any], may_be_new: tuple[str, ...] = ()) -> Any:
    """The parameters of another run's checkpoint, to start from.

    Args:
      path: a step's folder, or a MODEL_DIR, whose newest step is taken.
      fresh: initial parameters of the model; every restored one is placed as its counterpart.
      about: this run's; the vocabularies must agree.
      may_be_new: regular expressions of parameters that the checkpoint may lack: they stay
        as they are in `fresh`. So does a head, if it may be new, whose labels are not those of `about`.

    Raises:
      UserError: no checkpoint, another vocabulary, or parameters that do not fit, as a table.
    """
    directory = step_directory(path)
    integrity.check(directory)
    theirs = read_about(directory)
    check_vocabulary(theirs, about, directory)
    may_be_new_path = re.compile('|'.join(may_be_new) or '(?!)').fullmatch
    keeps_head = theirs.get('labels') == about.get('labels') or not may_be_new_path('head/kernel')
    handlers = {STATE: ocp.PyTreeCheckpointHandler(), ABOUT: ocp.JsonCheckpointHandler()}
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers))
    saved = _leaves(checkpointer.metadata(directory.absolute()).item_metadata[STATE])
    # A leaf of which only the top layers were trained lies in both parts, the frozen layers first.
    places = {
        path: [f'{part}/{path}' for part in ('frozen', 'params') if f'{part}/{path}' in saved]
        if keeps_head or not path.startswith('head/')
        else []
        for path in _leaves(fresh)
    }

    def shape(places: list[str]) -> tuple[int, ...]:
        (first, *rest), *others = (tuple(saved[place].shape) for place in places)
        return (first + sum(other[0] for other in others), *rest) if others else (first, *rest)

    wrong = [
        f'  {path}: {shape(found) if found else "missing"} there, {tuple(leaf.shape)} here'
        for (path, leaf), found in zip(_leaves(fresh).items(), places.values(), strict=True)
        if (not found and not may_be_new_path(path)) or (found and shape(found) != tuple(leaf.shape))
    ]
    there = {path.partition('/')[2] for path in saved if path.startswith(('params/', 'frozen/'))}
    wrong += [
        f'  {path}: there, but this model has none'
        for path in sorted(there - places.keys())
        if not path.startswith('head/')  # another head may replace the old one
    ]
    if wrong and 'base' in theirs:
        run = directory.parents[1]
        raise UserError(
            f'{directory} holds the trained part alone, on a base of its own. Make one of both and start from it:\n'
            f'  python -c "from palm_jax import api; api.load({str(run)!r}).save({f"{run}_whole"!r})"'
        )
    if wrong:
        raise UserError(f'The parameters in {directory} do not fit this model:\n' + '\n'.join(wrong))
    target: dict[str, Any] = {}
    for path, leaf in _leaves(fresh).items():
        for place in places[path]:
            *folders, name = place.split('/')
            branch = target
            for folder in folders:
                branch = branch.setdefault(folder, {})
            branch[name] = jax.ShapeDtypeStruct(saved[place].shape, leaf.dtype, sharding=leaf.sharding)
    args = ocp.args.PyTreeRestore(
        target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
    )
    restored = _leaves(checkpointer.restore(directory.absolute(), args=ocp.args.Composite(**{STATE: args}))[STATE])

    def pick(key_path, leaf):
        parts = [restored[place] for place in places[path_name(key_path)]]
        return jnp.concatenate(parts) if len(parts) > 1 else (parts or [leaf])[0]

    return jax.tree_util.tree_map_with_path(pick, fresh)


def fingerprint(params: Any) -> str:
    """Names the exact values of a tree of parameters, on whatever mesh they lie.

    Every value's bits are mixed with its index and added up modulo 2³², which does not depend
    on the order of the additions; paths, shapes and sums are hashed.
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
    """Leaves by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, 'shape'))
    return {jax.tree_util.keystr(p, simple=True, separator='/'): x for p, x in leaves}
