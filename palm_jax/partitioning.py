"""The mesh, what each logical axis maps to on it, and the shardings that follow.

Models name their axes and know no device; a table says which mesh axis a logical axis is
split over. Two axes: `data` splits the batch and, fully sharded (ZeRO-3), the weights;
`model` splits heads, the MLP's hidden units and the vocabulary (tensor parallelism), and
between the blocks width or length where the rules say so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from palm_jax.errors import UserError

Rules = tuple[tuple[str, str | None], ...]

# What every layout shares: activations follow the batch and, inside a block, the weights.
_IN_BLOCKS: Rules = (('act_batch', 'data'), ('act_heads', 'model'), ('act_mlp', 'model'), ('act_vocab', 'model'))
_ACTIVATIONS: Rules = (*_IN_BLOCKS, ('act_length', None), ('act_embed', None))
_WEIGHTS: Rules = (('embed', 'data'), ('heads', 'model'), ('mlp', 'model'), ('vocab', 'model'))
# One key/value head serves all query heads, so it is replicated; layers are scanned over.
_UNSPLIT: Rules = tuple(
    (axis, None) for axis in ('kv_heads', 'kv', 'layers', 'rank', 'bottleneck', 'prompt', 'classes')
)


def data_parallel() -> Rules:
    """Every device holds all weights and a part of the batch."""
    weights = (('embed', None), ('heads', 'model'), ('mlp', 'model'), ('vocab', 'model'))
    return (*_ACTIVATIONS, *weights, *_UNSPLIT)


def fully_sharded() -> Rules:
    """Weights and optimizer state are split over `data` too, gathered layer by layer (PaLM, section 4)."""
    return (*_ACTIVATIONS, *_WEIGHTS, *_UNSPLIT)


def two_dimensional() -> Rules:
    """Fully sharded, and between blocks activations are split over both axes: batch and width (PaLM, section 4).

    What a block keeps for the backward pass then takes `model` times less memory.
    """
    return (*_IN_BLOCKS, ('act_length', None), ('act_embed', 'model'), *_WEIGHTS, *_UNSPLIT)


def sequence() -> Rules:
    """Fully sharded, and between blocks activations are split over batch and length (Korthikanti et al., 2205.05198).

    As `two_dimensional`; norms, too, work on a part of the positions then. Inside a block heads and hidden units take
    the axis: rules that come first win.
    """
    length = (('act_length', 'model'), ('act_length', None))  # or not at all, where the axis is taken
    return (*_IN_BLOCKS, *length, ('act_embed', None), *_WEIGHTS, *_UNSPLIT)


@dataclasses.dataclass(frozen=True)
class MeshLayout:
    """A mesh's shape and the rules that place arrays on it.

    Attributes:
      data: devices along `data`; -1 is all that remain.
      model: devices along `model`.
      rules: mesh axis by logical axis.
    """

    data: int = -1
    model: int = 1
    rules: Rules = dataclasses.field(default_factory=fully_sharded)

    def axis_sizes(self, num_devices: int) -> dict[str, int]:
        """{'data': ..., 'model': ...} for so many devices."""
        data, model = self.data, self.model
        if data == -1:
            data = max(1, num_devices // max(1, model))
        if min(data, model) < 1 or data * model != num_devices:
            raise UserError(
                f'A mesh of data = {self.data} × model = {model} does not fit {num_devices} device(s). '
                f'Set --gin.MESH_MODEL to a divisor of {num_devices} and --gin.MESH_DATA=-1 (all that remain).'
            )
        return {'data': data, 'model': model}

    def mesh(self, devices: list[jax.Device] | None = None) -> Mesh:
        """The mesh over `devices` (default: all), neighbours on it neighbours in the machine where they can be."""
        devices = jax.devices() if devices is None else devices
        sizes = self.axis_sizes(len(devices))
        placed = mesh_utils.create_device_mesh(tuple(sizes.values()), devices, allow_split_physical_axes=True)
        return Mesh(placed, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))

    def check(self, boxed: Any, axis_sizes: Mapping[str, int]) -> None:
        """Says which dimension of which parameter a mesh does not divide, before XLA does."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=_is_boxed):
            if not _is_boxed(leaf):
                continue
            for size, name, mesh_axis in zip(leaf.value.shape, leaf.names, self.spec(leaf), strict=True):
                if mesh_axis is not None and size % axis_sizes[mesh_axis]:
                    raise UserError(
                        f'{jax.tree_util.keystr(path, simple=True, separator="/")}: axis `{name}` has size {size}, '
                        f'which {mesh_axis} = {axis_sizes[mesh_axis]} devices do not divide. '
                        f'Change the mesh or map `{name}` to None in the rules.'
                    )

    def spec(self, leaf: Any) -> PartitionSpec:
        """Mesh axes of one (boxed) leaf; plain leaves are replicated."""
        if not _is_boxed(leaf):
            return PartitionSpec()
        table = dict(self.rules)
        unknown = [name for name in leaf.names if name is not None and name not in table]
        if unknown:
            raise UserError(f'No rule for the logical axes {unknown}. Known: {", ".join(table)}.')
        return PartitionSpec(*(table.get(name) for name in leaf.names))

    def shardings(self, boxed: Any, mesh: Mesh) -> Any:
        """The sharding of every leaf of a tree as it will be once unboxed."""

        def place(leaf: Any) -> Any:
            sharding = NamedSharding(mesh, self.spec(leaf))
            return jax.tree.map(lambda _: sharding, leaf.value if _is_boxed(leaf) else leaf)

        return jax.tree.map(place, boxed, is_leaf=_is_boxed)


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Host arrays [B, ...], which every process has whole, to global arrays split over `data`."""
    size = len(next(iter(batch.values())))
    return read_batch(lambda first, count: {name: x[first : first + count] for name, x in batch.items()}, size, mesh)


def read_batch(read: Callable[[int, int], Mapping[str, np.ndarray]], size: int, mesh: Mesh) -> dict[str, jax.Array]:
    """A global batch split over `data`, of which every process reads the rows of its own devices alone.

    Args:
      read: gives rows first, ..., first + count - 1 of the batch: arrays [count, ...].
      size: B.
      mesh: with an axis `data` that divides B.
    """
    sharding = NamedSharding(mesh, PartitionSpec('data'))
    rows = {index[0].indices(size)[:2] for index in sharding.addressable_devices_indices_map((size,)).values()}
    first, last = min(start for start, _ in rows), max(stop for _, stop in rows)
    if sum(stop - start for start, stop in rows) == last - first:  # as on every mesh but an odd one
        rows = {(first, last)}
    parts = {span: read(span[0], span[1] - span[0]) for span in sorted(rows)}

    def global_array(name: str, like: np.ndarray) -> jax.Array:
        def piece(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(size)
            begin, part = next((s, part) for (s, e), part in parts.items() if s <= start and stop <= e)
            return part[name][start - begin : stop - begin]

        return jax.make_array_from_callback((size, *like.shape[1:]), sharding, piece)

    return {name: global_array(name, value) for name, value in next(iter(parts.values())).items()}


def bytes_per_device(boxed: Any, layout: MeshLayout, axis_sizes: Mapping[str, int]) -> int:
    """Memory of a tree's leaves on one device of a mesh that need not exist here."""
    total = 0
    for leaf in jax.tree.leaves(boxed, is_leaf=_is_boxed):
        split = math.prod(axis_sizes[axis] for axis in layout.spec(leaf) if axis is not None)
        for array in jax.tree.leaves(leaf.value if _is_boxed(leaf) else leaf):  # none where an optimizer is masked
            total += math.prod(array.shape) * array.dtype.itemsize // split
    return total


def _is_boxed(leaf: Any) -> bool:
    return isinstance(leaf, nn.meta.AxisMetadata)
