"""Checkpoints by Orbax: asynchronous, atomic, sharded as the run is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from palm_jax.errors import UserError
from palm_jax.training.state import TrainState

_STATE, _ABOUT = 'state', 'about'


class Checkpoints:
    """The checkpoints below one directory, a folder a step.

    Args:
      directory: created when missing.
      keep: how many of the newest stay.
      about: JSON kept with every checkpoint, e.g. the vocabulary's fingerprint.
    """

    def __init__(self, directory: Path, keep: int, about: dict[str, Any]):
        self.directory, self._about = directory, about
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """The newest finished step, or None."""
        return self._manager.latest_step()

    def path(self, step: int) -> Path:
        """Where a step's checkpoint lies."""
        return self.directory / str(step)

    def save(self, state: TrainState, step: int) -> None:
        """Starts writing; returns once the state has been copied from the device."""
        if step == self.latest:
            return
        items = {_STATE: ocp.args.StandardSave(state), _ABOUT: ocp.args.JsonSave(self._about)}
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, shapes: TrainState, shardings: TrainState) -> TrainState:
        """The newest state, placed by `shardings` whatever mesh it was saved from."""
        target = jax.tree.map(lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d), shapes, shardings)
        step = self.latest
        about = self._manager.restore(step, args=ocp.args.Composite(**{_ABOUT: ocp.args.JsonRestore()}))[_ABOUT]
        check_about(about, self._about, self.path(step))
        restored = self._manager.restore(step, args=ocp.args.Composite(**{_STATE: ocp.args.StandardRestore(target)}))
        return restored[_STATE]

    def wait(self) -> None:
        """Until what was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go."""
        self._manager.close()


def restore_params(path: str, shapes: Any, shardings: Any, about: dict[str, Any]) -> Any:
    """The parameters of another run's checkpoint, to start from.

    Args:
      path: a step's folder, or a MODEL_DIR, whose newest step is taken.
      shapes: the parameters expected; every one must be there in its shape.
      shardings: where to place them.
      about: this run's; the vocabularies must agree.
    """
    step_dir = _step_dir(Path(path).expanduser())
    with ocp.CheckpointManager(step_dir.parent.absolute()) as manager:
        step = int(step_dir.name)
        theirs = manager.restore(step, args=ocp.args.Composite(**{_ABOUT: ocp.args.JsonRestore()}))[_ABOUT]
        check_about(theirs, about, step_dir)
        saved = _metadata(manager, step)['params']
        _check_shapes(saved, shapes, step_dir)
        target = jax.tree.map(lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d), shapes, shardings)
        args = ocp.args.PyTreeRestore(
            {'params': target},
            restore_args=ocp.checkpoint_utils.construct_restore_args({'params': target}),
            partial_restore=True,
        )
        restored = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(step_dir.absolute() / _STATE, args=args)
    return restored['params']


def check_about(theirs: dict[str, Any], ours: dict[str, Any], path: Path) -> None:
    """Refuses a checkpoint made with another vocabulary, naming both."""
    if theirs.get('vocabulary') != ours.get('vocabulary'):
        raise UserError(
            f'{path} was trained with the vocabulary {theirs.get("vocabulary")}, this run has '
            f'{ours.get("vocabulary")}. Its ids mean other text: bind VOCABULARY to the file it was trained with.'
        )


def _step_dir(path: Path) -> Path:
    if (path / _STATE).is_dir() and path.name.isdigit():
        return path
    for root in (path, path / 'checkpoints'):
        steps = [int(p.name) for p in root.glob('*') if p.name.isdigit() and (p / _STATE).is_dir()]
        if steps:
            return root / str(max(steps))
    raise UserError(f'INITIAL_CHECKPOINT_PATH = {str(path)!r} is no checkpoint, nor a MODEL_DIR that holds one.')


def _metadata(manager: ocp.CheckpointManager, step: int) -> Any:
    metadata = ocp.StandardCheckpointer().metadata(Path(manager.directory) / str(step) / _STATE)
    return getattr(metadata, 'item_metadata', metadata)


def _check_shapes(saved: Any, expected: Any, path: Path) -> None:
    def table(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, 'shape'))
        return {jax.tree_util.keystr(p, simple=True, separator='/'): tuple(x.shape) for p, x in leaves}

    saved, expected = table(saved), table(expected)
    wrong = [
        f'  {name}: {saved.get(name, "missing")} there, {shape} here'
        for name, shape in expected.items()
        if saved.get(name) != shape
    ]
    if wrong:
        raise UserError(f'The parameters in {path} do not fit this model:\n' + '\n'.join(wrong))
