"""The device mesh, the mesh axis of every logical axis, and the resulting shardings.

Models name their axes and do not depend on devices; rules map logical axes to mesh axes. There are two mesh axes:
`data` splits the batch and, if fully sharded (ZeRO-3), the weights; `model` splits heads, hidden units of the MLP and
the vocabulary (tensor parallelism) and, if the rules say so, the width or length of activations between blocks. With
the rules of `pipeline` there is a third one, `stage`, which splits the layers (pipeline parallelism).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from palm_jax.bounds import AtLeast, Count, checked
from palm_jax.errors import UserError
from palm_jax.models.kernels.matmul import reducing_in
from palm_jax.models.pipeline import STAGE, Schedule, scheduled
from palm_jax.wording import counted

Rules: TypeAlias = tuple[tuple[str, str | None], ...]

# Common to all layouts: activations follow the batch and, inside a block, the weights.
_IN_BLOCKS: Rules = (('act_batch', 'data'), ('act_heads', 'model'), ('act_mlp', 'model'), ('act_vocab', 'model'))
_ACTIVATIONS: Rules = (*_IN_BLOCKS, ('act_length', None), ('act_embed', None))
_WEIGHTS: Rules = (('embed', 'data'), ('heads', 'model'), ('mlp', 'model'), ('vocab', 'model'))
# One key/value head serves all query heads, so it is replicated; layers are scanned.
_UNSPLIT: Rules = tuple(
    (axis, None) for axis in ('kv_heads', 'kv', 'layers', 'rank', 'bottleneck', 'prompt', 'classes')
)


def data_parallel() -> Rules:
    """Return rules for data parallelism: every device holds all weights and a part of the batch."""
    weights: Rules = (('embed', None), ('heads', 'model'), ('mlp', 'model'), ('vocab', 'model'))
    return (*_ACTIVATIONS, *weights, *_UNSPLIT)


def fully_sharded() -> Rules:
    """Return rules that also split weights and optimizer state over `data`, gathered per layer (PaLM, section 4)."""
    return (*_ACTIVATIONS, *_WEIGHTS, *_UNSPLIT)


def two_dimensional() -> Rules:
    """Return `fully_sharded` rules with activations between blocks split over both batch and width (PaLM, section 4).

    The activations that a block stores for the backward pass take `model` times less memory.
    """
    return (*_IN_BLOCKS, ('act_length', None), ('act_embed', 'model'), *_WEIGHTS, *_UNSPLIT)


def sequence() -> Rules:
    """Return `fully_sharded` rules with activations between blocks split over both batch and length.

    Sequence parallelism (Korthikanti et al., arXiv 2205.05198): like `two_dimensional`, and norms are also split over
    positions. Inside a block, heads and hidden units take the axis: the first matching rule wins.
    """
    length: Rules = (('act_length', 'model'), ('act_length', None))  # or not split, where the axis is taken
    return (*_IN_BLOCKS, *length, ('act_embed', None), *_WEIGHTS, *_UNSPLIT)


def pipeline(within: Rules | None = None) -> Rules:
    """Return rules that split the layers over `stage`, and the vocabulary along with them (arXiv 2411.05288).

    Without the latter every stage would compute all logits.

    Args:
      within: rules of what a stage splits over its own devices; None is `data_parallel`. Fully sharded weights would be
        gathered for every microbatch.
    """
    by_stage = dict.fromkeys(('layers', 'vocab', 'act_vocab'), STAGE)
    return tuple((name, by_stage.get(name, axis)) for name, axis in within or data_parallel())


@checked
@dataclasses.dataclass(frozen=True)
class MeshLayout:
    """The shape of a mesh and the rules that place arrays on it.

    Attributes:
      data: number of devices along `data`; -1 is all that remain.
      model: number of devices along `model`.
      slices: number of groups of devices (slices of TPUs, islands of GPUs) that a slower network joins; `data` runs
        over the groups first, and `model` stays within one.
      rules: (logical axis, mesh axis or None) pairs.
      stage: number of devices along `stage`, which only the rules of `pipeline` use.
      pipeline_microbatches: number of parts of a batch that follow one another through the stages; None is the number
        of stages.
      pipeline_repeats: number of times that a part passes all stages, each time through the next layers.
      reduce_dtype: dtype in which devices exchange and add their gradients of the linear maps; None is float32 on TPUs
        and CPUs, and that of the computation on GPUs.
    """

    data: Count | Literal[-1] = -1
    model: Count = 1
    slices: Annotated[int, AtLeast(1)] = 1
    rules: Rules = dataclasses.field(default_factory=fully_sharded)
    stage: Count = 1
    pipeline_microbatches: Count | None = None
    pipeline_repeats: Count = 1
    reduce_dtype: Literal['float32', 'bfloat16'] | None = None

    @property
    def schedule(self) -> Schedule | None:
        """The schedule of the pipeline; None with one stage.

        Raises:
          UserError: there are fewer microbatches than stages, and they have to return.
        """
        if self.stage == 1:
            return None
        return Schedule(self.stage, self.pipeline_microbatches or self.stage, self.pipeline_repeats)

    def axis_sizes(self, num_devices: int) -> dict[str, int]:
        """Return {'data': ..., 'model': ...} for a number of devices, after 'stage' if the rules have that axis."""
        data, model, has_stages = self.data, self.model, STAGE in {axis for _, axis in self.rules}
        if self.stage > 1 and not has_stages:
            raise UserError(
                f'MESH_STAGE = {self.stage}, but the rules split nothing over `{STAGE}`. '
                'Add --gin_file=gin/mesh/pipeline.gin (in Python: rules=partitioning.pipeline()).'
            )
        if data == -1:
            data = max(1, num_devices // max(1, model * self.stage))
        if min(data, model) < 1 or data * model * self.stage != num_devices:
            stages = f'stage = {self.stage} × ' if has_stages else ''
            product = '--gin.MESH_STAGE × --gin.MESH_MODEL' if has_stages else '--gin.MESH_MODEL'
            raise UserError(
                f'A mesh of {stages}data = {self.data} × model = {self.model} does not fit '
                f'{counted(num_devices, "device")}. '
                f'Set {product} to a divisor of {num_devices} and --gin.MESH_DATA=-1 (all that remain).'
            )
        if data % self.slices:
            raise UserError(
                f'MESH_SLICES = {self.slices} does not divide data = {data}, the axis that runs over slices.'
            )
        return ({STAGE: self.stage} if has_stages else {}) | {'data': data, 'model': model}

    def mesh(self, devices: list[jax.Device] | None = None) -> Mesh:
        """Return the mesh over `devices` (default: all); neighbors on it are close in the machine if possible."""
        devices = jax.devices() if devices is None else devices
        sizes = self.axis_sizes(len(devices))
        named = _named_slices(devices)
        if self.slices == 1 and named > 1:
            raise UserError(
                f'The devices are in {named} slices of TPUs, which a slower network joins. '
                f'Set --gin.MESH_SLICES={named}, so that only the axis `data` crosses it.'
            )
        if self.slices == 1:
            placed = mesh_utils.create_device_mesh(tuple(sizes.values()), devices, allow_split_physical_axes=True)
        else:
            within = sizes | {'data': sizes['data'] // self.slices}
            placed = self._over_slices(devices, tuple(within.values()))
        return Mesh(placed, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))

    @contextlib.contextmanager
    def on(self, mesh: Mesh) -> Iterator[None]:
        """A context in which arrays and constraints on logical axes are placed on `mesh` by the rules."""
        rules, reducing = nn.logical_axis_rules(self.rules), reducing_in(self.reduce_dtype)
        with jax.set_mesh(mesh), rules, scheduled(self.schedule), reducing:
            yield

    def _over_slices(self, devices: list[jax.Device], within: tuple[int, ...]) -> np.ndarray:
        """Return devices [..., data, model], those of one slice next to each other; `within` is the mesh of a slice."""
        named = _named_slices(devices)
        if named == self.slices:
            return mesh_utils.create_hybrid_device_mesh(
                within, (*[1] * (len(within) - 2), self.slices, 1), devices, allow_split_physical_axes=True
            )
        if named > 1:
            raise UserError(
                f'MESH_SLICES = {self.slices}, but the devices are in {named} slices. Set --gin.MESH_SLICES={named}.'
            )
        # Neighboring nodes, and processes within a node, are in one.
        ordered = sorted(devices, key=lambda device: (_slice_index(device), device.process_index, device.id))
        groups = np.array_split(np.array(ordered), self.slices)
        meshes = [
            mesh_utils.create_device_mesh(within, list(group), allow_split_physical_axes=True) for group in groups
        ]
        return np.concatenate(meshes, axis=-2)

    def check(self, boxed: Any, axis_sizes: Mapping[str, int]) -> None:
        """Raise an error for the first parameter dimension that a mesh axis does not divide, before XLA does."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=_is_boxed):
            if not _is_boxed(leaf):
                continue
            for size, name, mesh_axis in zip(leaf.value.shape, leaf.names, self.spec(leaf), strict=True):
                if mesh_axis is not None and size % axis_sizes[mesh_axis]:
                    raise UserError(
                        f'{jax.tree_util.keystr(path, simple=True, separator="/")}: axis `{name}` has size {size}, '
                        f'which is not divisible by {mesh_axis} = {axis_sizes[mesh_axis]} devices. '
                        f'Change the mesh or map `{name}` to None in the rules.'
                    )

    def spec(self, leaf: Any) -> PartitionSpec:
        """Return the mesh axes of a (boxed) leaf; plain leaves are replicated."""
        if not _is_boxed(leaf):
            return PartitionSpec()
        table = dict(self.rules)
        unknown = [name for name in leaf.names if name is not None and name not in table]
        if unknown:
            raise UserError(f'No rule for the logical axes {unknown}. Axes with rules: {", ".join(table)}.')
        return PartitionSpec(*(table.get(name) for name in leaf.names))

    def shardings(self, boxed: Any, mesh: Mesh) -> Any:
        """Return the sharding of every leaf of a tree, in the structure of the unboxed tree."""

        def place(leaf: Any) -> Any:
            sharding = NamedSharding(mesh, self.spec(leaf))
            return jax.tree.map(lambda _: sharding, leaf.value if _is_boxed(leaf) else leaf)

        return jax.tree.map(place, boxed, is_leaf=_is_boxed)


def _slice_index(device: jax.Device) -> int:
    """Return the number of a TPU's slice or of a GPU's node; CPUs have none."""
    return getattr(device, 'slice_index', 0)


def _named_slices(devices: list[jax.Device]) -> int:
    """Return the number of slices of TPUs; 0 for other devices, of which `slice_index` is the node."""
    return len({_slice_index(device) for device in devices if device.platform == 'tpu'})


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Turn host arrays [B, ...], complete in every process, into global arrays split over `data`."""
    size = len(next(iter(batch.values())))
    return read_batch(lambda first, count: {name: x[first : first + count] for name, x in batch.items()}, size, mesh)


def read_batch(read: Callable[[int, int], Mapping[str, np.ndarray]], size: int, mesh: Mesh) -> dict[str, jax.Array]:
    """Read a global batch split over `data`; every process reads only the rows of its own devices.

    Args:
      read: function that returns rows first, ..., first + count - 1 of the batch: arrays [count, ...].
      size: B.
      mesh: mesh with an axis `data` that divides B.
    """
    sharding = NamedSharding(mesh, PartitionSpec('data'))
    indices = sharding.addressable_devices_indices_map((size,)).values()
    rows = {index[0].indices(size)[:2] for index in indices if index is not None}
    first, last = min(start for start, _ in rows), max(stop for _, stop in rows)
    if sum(stop - start for start, stop in rows) == last - first:  # contiguous, as on all but unusual meshes
        rows = {(first, last)}
    parts = {span: read(span[0], span[1] - span[0]) for span in sorted(rows)}

    def global_array(name: str, like: np.ndarray) -> jax.Array:
        def piece(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # every device holds some rows
            start, stop, _ = index[0].indices(size)
            begin, part = next((s, part) for (s, e), part in parts.items() if s <= start and stop <= e)
            return part[name][start - begin : stop - begin]

        return jax.make_array_from_callback((size, *like.shape[1:]), sharding, piece)

    return {name: global_array(name, value) for name, value in next(iter(parts.values())).items()}


def bytes_per_device(boxed: Any, layout: MeshLayout, axis_sizes: Mapping[str, int]) -> int:
    """Return the bytes of a tree's leaves on one device of a mesh that need not exist on this machine."""
    total = 0
    for leaf in jax.tree.leaves(boxed, is_leaf=_is_boxed):
        split = math.prod(axis_sizes[axis] for axis in layout.spec(leaf) if axis is not None)
        for array in jax.tree.leaves(leaf.value if _is_boxed(leaf) else leaf):  # no array where an optimizer is masked
            total += math.prod(array.shape) * _bits(array.dtype) // 8 // split
    return total


def _bits(dtype: np.dtype) -> int:
    """Bits of a number in the memory of a device, where two of 4 bits share a byte."""
    return 4 if dtype in (jnp.int4, jnp.uint4) else 8 * dtype.itemsize


def _is_boxed(leaf: Any) -> bool:
    return isinstance(leaf, nn.meta.AxisMetadata)
