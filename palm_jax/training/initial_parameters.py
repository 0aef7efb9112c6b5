"""The parameters of another run's checkpoint, to start from, and fingerprints of parameters."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from palm_jax.checkpoint_metadata import CheckpointMetadata, metadata_folder, read_metadata
from palm_jax.errors import UserError
from palm_jax.parameters import leaves_by_path, path_name
from palm_jax.peft.relations import RelationVectors
from palm_jax.run_directory import STATE, RunDirectory, find_checkpoint
from palm_jax.training import integrity

# A head may be another one, and the model does not read vectors of relations.
_REPLACEABLE = ('head/', f'{RelationVectors().name}/')


def restore_params(path: str | Path, fresh: Any, run: CheckpointMetadata, may_be_new: tuple[str, ...] = ()) -> Any:
    """The parameters of another run's checkpoint, to start from.

    Args:
      path: a checkpoint or a MODEL_DIR, see `find_checkpoint`.
      fresh: initial parameters of the model; restored parameters get their shardings and dtypes.
      run: metadata of the run that uses the parameters; the vocabularies must agree.
      may_be_new: regular expressions of parameters that the checkpoint may lack; those keep their values from
        `fresh`. So does a head that may be new if the checkpoint's labels differ from the run's.

    Raises:
      UserError: the checkpoint does not exist, it has another vocabulary, or its parameters do not fit (each listed).
    """
    checkpoint = find_checkpoint(path)
    integrity.check(checkpoint)
    checkpointer, saved, sources = _sources(checkpoint, fresh, run, may_be_new)
    target: dict[str, Any] = {}
    for path, leaf in leaves_by_path(fresh).items():
        for source in sources[path]:
            *branches, name = source.split('/')
            tree = target
            for branch in branches:
                tree = tree.setdefault(branch, {})
            tree[name] = jax.ShapeDtypeStruct(saved[source].shape, leaf.dtype, sharding=leaf.sharding)
    args = ocp.args.PyTreeRestore(
        target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
    )
    items = checkpointer.restore(checkpoint.absolute(), args=ocp.args.Composite(**{STATE: args}))
    restored = leaves_by_path(items[STATE])

    def pick(key_path, leaf):
        parts = [restored[source] for source in sources[path_name(key_path)]]
        return jnp.concatenate(parts) if len(parts) > 1 else (parts or [leaf])[0]

    return jax.tree_util.tree_map_with_path(pick, fresh)


def check_params(path: str | Path, fresh: Any, run: CheckpointMetadata, may_be_new: tuple[str, ...] = ()) -> None:
    """Refuse a checkpoint whose parameters do not fit, from its metadata alone.

    Args:
      path, fresh, run, may_be_new: arguments of `restore_params`; of `fresh`, shapes are enough.

    Raises:
      UserError: the checkpoint does not exist, it has another vocabulary, or its parameters do not fit (each listed).
    """
    _sources(find_checkpoint(path), fresh, run, may_be_new)


def _sources(
    checkpoint: Path, fresh: Any, run: CheckpointMetadata, may_be_new: tuple[str, ...]
) -> tuple[ocp.Checkpointer, dict[str, Any], dict[str, list[str]]]:
    """Return `saved_leaves`, and the names of those that hold each parameter; none for one that keeps its value.

    Args:
      checkpoint: the checkpoint.
      fresh, run, may_be_new: see `restore_params`.

    Raises:
      UserError: see `check_params`.
    """
    metadata = read_metadata(checkpoint)
    metadata.check_vocabulary(run, checkpoint)
    may_be_new_path = re.compile('|'.join(may_be_new) or '(?!)').fullmatch
    keeps_head = metadata.labels == run.labels or not may_be_new_path('head/kernel')
    checkpointer, saved = saved_leaves(checkpoint)
    # A stacked leaf whose top layers alone were trained is saved in two parts, the frozen layers first.
    sources = {
        path: [f'{part}/{path}' for part in ('frozen', 'params') if f'{part}/{path}' in saved]
        if keeps_head or not path.startswith('head/')
        else []
        for path in leaves_by_path(fresh)
    }

    def shape(names: list[str]) -> tuple[int, ...]:
        (first, *rest), *others = (tuple(saved[name].shape) for name in names)
        return (first + sum(other[0] for other in others), *rest) if others else (first, *rest)

    wrong = [
        f'  {path}: {shape(found) if found else "missing"} there, {tuple(leaf.shape)} here'
        for (path, leaf), found in zip(leaves_by_path(fresh).items(), sources.values(), strict=True)
        if (not found and not may_be_new_path(path)) or (found and shape(found) != tuple(leaf.shape))
    ]
    there = {path.partition('/')[2] for path in saved if path.startswith(('params/', 'frozen/'))}
    wrong += [
        f'  {path}: there, but this model has none'
        for path in sorted(there - sources.keys())
        if not path.startswith(_REPLACEABLE)
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
    return checkpointer, saved, sources


def saved_leaves(checkpoint: Path) -> tuple[ocp.Checkpointer, dict[str, Any]]:
    """A reader of a checkpoint, whose metadata can be read, and the descriptions of its arrays by path."""
    folder = metadata_folder(checkpoint)
    assert folder is not None, '`read_metadata` has read it'
    handlers = {STATE: ocp.PyTreeCheckpointHandler(), folder.name: ocp.JsonCheckpointHandler()}
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers))
    return checkpointer, leaves_by_path(checkpointer.metadata(checkpoint.absolute()).item_metadata[STATE])


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

    leaves = leaves_by_path(params)
    sums = jax.device_get(jax.jit(lambda leaves: {name: mixed_sum(x) for name, x in leaves.items()})(leaves))
    text = repr([(name, leaves[name].shape, int(sums[name])) for name in sorted(leaves)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
