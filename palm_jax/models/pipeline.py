"""Pipeline parallelism: stages of devices hold some layers each, and parts of the batch pass from stage to stage.

GPipe (Huang et al., arXiv 1811.06965) with the circular repeats of an interleaved schedule (Narayanan et al., arXiv
2104.04473), as one program for all devices (GSPMD, Xu et al., arXiv 2105.04663, section 3.3): arrays have a leading
axis of stages, which is split over the mesh axis `stage`; one iteration applies all stages, each to a microbatch of its
own, and a rotation along that axis, which is a collective permutation, passes the results on.

Further letters of shapes here: P stages, Q microbatches, b rows of a microbatch.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from palm_jax.bounds import Count, checked
from palm_jax.errors import UserError
from palm_jax.models.layer_pattern import LayerPattern
from palm_jax.models.layers import PRODUCT
from palm_jax.models.sharding import constrain

STAGE = 'stage'  # mesh axis of the stages
_UNCONSTRAINED = PartitionSpec.UNCONSTRAINED


@checked
@dataclasses.dataclass(frozen=True)
class Schedule:
    """The order in which stages compute microbatches.

    With K = N / (repeats · stages) layers at a time, stage p computes layers p·K to (p + 1)·K − 1 of the first
    N / repeats layers. A microbatch that has passed the last stage returns to the first one for the next N / repeats
    layers. While the pipeline fills and drains, some stages compute nothing of use: the bubble.

    Attributes:
      stages: number of stages (P).
      microbatches: number of parts of the batch (Q); with more than one repeat at least the number of stages.
      repeats: number of times that a microbatch passes all stages.
    """

    stages: Count
    microbatches: Count
    repeats: Count = 1

    def __post_init__(self) -> None:
        if self.repeats > 1 and self.microbatches < self.stages:
            raise UserError(
                f'PIPELINE_MICROBATCHES = {self.microbatches} is less than MESH_STAGE = {self.stages}, and with '
                f'PIPELINE_REPEATS = {self.repeats} a microbatch would return before the first stage has seen all. '
                f'Set --gin.PIPELINE_MICROBATCHES={self.stages} or a multiple of it.'
            )

    @property
    def iterations(self) -> int:
        """Number of iterations of a forward pass, in each of which every stage computes one microbatch."""
        return self.microbatches * self.repeats + self.stages - 1

    @property
    def bubble(self) -> float:
        """Share of the iterations in which a stage computes nothing of use: (P − 1) / (Q · repeats + P − 1)."""
        return (self.stages - 1) / self.iterations

    def layers_at_once(self, num_layers: int) -> int:
        """Return the number of layers that a stage computes in an iteration.

        Raises:
          UserError: the layers cannot be divided.
        """
        parts = self.stages * self.repeats
        if num_layers % self.repeats:
            raise UserError(
                f'NUM_LAYERS = {num_layers} does not divide into PIPELINE_REPEATS = {self.repeats}. '
                f'Possible: {_divisors(num_layers)}.'
            )
        if num_layers % parts:
            raise UserError(
                f'NUM_LAYERS = {num_layers} does not divide into MESH_STAGE = {self.stages} × PIPELINE_REPEATS = '
                f'{self.repeats}. Numbers of stages that would do: {_divisors(num_layers // self.repeats)}.'
            )
        return num_layers // parts


def _divisors(number: int) -> str:
    return ', '.join(str(divisor) for divisor in range(1, number + 1) if number % divisor == 0)


_SCHEDULE: contextvars.ContextVar[Schedule | None] = contextvars.ContextVar('schedule', default=None)


@contextlib.contextmanager
def scheduled(schedule: Schedule | None) -> Iterator[None]:
    """A context in which models are traced with the layers in a pipeline; None: without one."""
    token = _SCHEDULE.set(schedule)
    try:
        yield
    finally:
        _SCHEDULE.reset(token)


def current() -> Schedule | None:
    """Return the schedule of the surrounding `scheduled`; None without one."""
    return _SCHEDULE.get()


def schedule_for(model: Any, batch_size: int) -> Schedule | None:
    """Return the schedule by which a call of a PaLM is computed; None where its layers follow one another.

    These are calls without a pipeline, the initialization, calls that write or read a cache or keep `intermediates`,
    and those whose layers or rows cannot be divided, such as a teacher of other depth or a single text.

    Args:
      model: the model, in a method of its own.
      batch_size: number of rows.
    """
    schedule = current()
    if schedule is None or model.is_initializing() or batch_size % schedule.microbatches:
        return None
    if model.arch.num_layers % (schedule.stages * schedule.repeats):
        return None
    keeps = any(map(model.is_mutable_collection, ('cache', 'intermediates'))) or model.has_variable('cache', 'stack')
    return None if keeps else schedule


def apply_stages(
    schedule: Schedule, model: Any, block: Callable[..., nn.Module], x_BLD: jax.Array, *context: Any
) -> jax.Array:
    """Apply all layers of a PaLM to embedded inputs.

    Gradients of a weight are added up over microbatches in its dtype. Dropout draws another pattern than without a
    pipeline.

    Args:
      schedule: order of stages and microbatches; it divides layers and rows.
      model: the model, whose parameters are stacked.
      block: function that makes a layer, given its `name`.
      x_BLD: embedded inputs.
      context: positions [B or 1, L] and mask.

    Returns:
      The output of the last layer, [B, L, D].
    """
    P, Q, arch = schedule.stages, schedule.microbatches, model.arch
    rng = model.make_rng('dropout') if model.has_rng('dropout') else None
    params = model.get_variable('params', 'stack')
    if model.frozen_layers:
        x_BLD = jax.lax.stop_gradient(x_BLD)
        params = jax.tree.map(functools.partial(_freeze, model.frozen_layers), params)
    pattern = LayerPattern.of(arch, range(arch.num_layers))
    layers = (_sent_to_stages(schedule, params), *_by_stage(schedule, (pattern, jnp.arange(arch.num_layers))))
    context = jax.tree.map(functools.partial(_split, Q, len(x_BLD)), context)
    unroll = min(arch.scan_unroll, schedule.layers_at_once(arch.num_layers))
    whole = functools.partial(_apply_stage, schedule, _Layer(block, parent=None), unroll, rng)
    stage = jax.checkpoint(whole, policy=_POLICIES[arch.remat], prevent_cse=False)
    stages = jax.vmap(stage, in_axes=(0, 0, 0, None, None), spmd_axis_name=STAGE)
    is_first_P111 = (jnp.arange(P) == 0)[:, None, None, None]

    def iterate(carry, step):
        y_PbLD, queue_PQbLD = _receive(schedule, *carry, step)
        waiting_PbLD = jax.lax.dynamic_index_in_dim(queue_PQbLD, step % Q, axis=1, keepdims=False)
        x_PbLD = _constrain(jnp.where(is_first_P111, waiting_PbLD, y_PbLD))
        y_PbLD = stages(layers, jnp.arange(P), x_PbLD, context, step)
        return (_constrain(y_PbLD), queue_PQbLD), None

    # Every stage has a queue, so that no stage waits for another one's; only that of the first stage is read.
    x_QbLD = _split(Q, len(x_BLD), x_BLD)
    queue_PQbLD = _constrain(jnp.broadcast_to(x_QbLD, (P, *x_QbLD.shape)))
    start = _constrain(jnp.zeros_like(queue_PQbLD[:, 0])), queue_PQbLD
    carry, _ = jax.lax.scan(iterate, start, jnp.arange(schedule.iterations))
    _, queue_PQbLD = _receive(schedule, *carry, schedule.iterations)
    y_QbLD = jnp.sum(jnp.where(is_first_P111[..., None], queue_PQbLD, 0), axis=0)  # to all stages
    return constrain(y_QbLD.swapaxes(0, 1).reshape(x_BLD.shape), 'act_batch', 'act_length', 'act_embed')


class _Layer(nn.Module):
    """A layer at the path that it has in the model, where fine-tuning methods find it."""

    block: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, *inputs: Any) -> jax.Array:
        return self.block(name='stack')(*inputs)[0]


def _apply_stage(schedule, layer, unroll, rng, layers, stage, x_bLD, context, step):
    """Apply the layers of one stage to the microbatch that has arrived there."""
    turn = jnp.clip(step - stage, 0, schedule.microbatches * schedule.repeats - 1)
    repeat, microbatch = turn // schedule.microbatches, turn % schedule.microbatches
    layers = jax.tree.map(lambda x: _take(x, repeat), layers)
    context = jax.tree.map(lambda x: _take(x, microbatch), context)
    rng = None if rng is None else jax.random.fold_in(rng, microbatch)

    def apply_layer(x_bLD, one):
        params, pattern, number = one
        rngs = {} if rng is None else {'dropout': jax.random.fold_in(rng, number)}
        return layer.apply({'params': {'stack': params}}, x_bLD, *context, pattern, rngs=rngs), None

    return jax.lax.scan(apply_layer, x_bLD, layers, unroll=unroll)[0]


def _receive(schedule, y_PbLD, queue_PQbLD, step):
    """Pass the outputs of all stages on; that of the last stage is kept in the queue of the first one."""
    P, Q = schedule.stages, schedule.microbatches
    y_PbLD = _constrain(jnp.roll(y_PbLD, 1, axis=0))
    slot = (step - P) % Q
    kept_PbLD = jax.lax.dynamic_index_in_dim(queue_PQbLD, slot, axis=1, keepdims=False)
    new_PbLD = jnp.where(step >= P, y_PbLD, kept_PbLD)  # before, the last stage has not computed anything of use
    return y_PbLD, _constrain(jax.lax.dynamic_update_index_in_dim(queue_PQbLD, new_PbLD, slot, axis=1))


def _by_stage(schedule: Schedule, tree: Any) -> Any:
    """Reshape [N, ...] to [P, repeats, K, ...], split over stages."""

    def reshape(x):
        parts = x.reshape(schedule.repeats, schedule.stages, -1, *x.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(parts, PartitionSpec(STAGE, *[_UNCONSTRAINED] * (parts.ndim - 1)))

    return jax.tree.map(reshape, tree)


def _sent_to_stages(schedule: Schedule, tree: Any) -> Any:
    """`_by_stage` of arrays that are split over stages in the order of the layers, by permutations.

    Every stage holds R = `repeats` runs of K layers, and stage c modulo P needs run c. Each of R permutations sends one
    run of every stage; without them, XLA would gather all weights.
    """
    P, R = schedule.stages, schedule.repeats
    if R == 1:
        return _by_stage(schedule, tree)

    def exchange(stage_1, tree):
        stage, received = stage_1[0], jax.tree.map(lambda x: jnp.zeros((R, len(x) // R, *x.shape[1:]), x.dtype), tree)
        for runs in _permutations(P, R):
            pairs = [(sender, run % P) for sender, run in enumerate(runs)]
            sent = jnp.array([run % R for run in runs])[stage]
            repeat = jnp.array([run // P for run in sorted(runs, key=lambda run: run % P)])[stage]

            def put(x, parts, pairs=pairs, sent=sent, repeat=repeat):
                part = jax.lax.dynamic_index_in_dim(x.reshape(parts.shape), sent, keepdims=False)
                return jax.lax.dynamic_update_index_in_dim(parts, jax.lax.ppermute(part, STAGE, pairs), repeat, 0)

            received = jax.tree.map(put, tree, received)
        return jax.tree.map(lambda parts: parts[None], received)

    on_stages = PartitionSpec(STAGE)
    mapped = jax.shard_map(exchange, in_specs=on_stages, out_specs=on_stages, axis_names={STAGE}, check_vma=False)
    return mapped(jnp.arange(P), tree)


def _permutations(stages: int, repeats: int) -> list[list[int]]:
    """The runs that the stages send, in `repeats` steps; in each, no two go to the same stage."""
    common = math.gcd(stages, repeats)
    return [
        [
            stage * repeats + step // common * common + (step + stage // (stages // common)) % common
            for stage in range(stages)
        ]
        for step in range(repeats)
    ]


def _split(microbatches: int, batch_size: int, x: jax.Array) -> jax.Array:
    """Reshape [B, ...] to [Q, B / Q, ...]; every part is strided, so that it keeps the batch's sharding."""
    if len(x) != batch_size:  # [1, ...], the same for all rows
        return jnp.broadcast_to(x, (microbatches, *x.shape))
    return x.reshape(batch_size // microbatches, microbatches, *x.shape[1:]).swapaxes(0, 1)


def _take(x: jax.Array, index: jax.Array) -> jax.Array:
    """x[index], without a copy of what has nothing else."""
    return x[0] if len(x) == 1 else jax.lax.dynamic_index_in_dim(x, index, keepdims=False)


def _constrain(x: jax.Array) -> jax.Array:
    """Pin activations [P, ..., b, L, D] to the stages and to the mesh."""
    return constrain(x, 'layers', *[None] * (x.ndim - 4), 'act_batch', 'act_length', 'act_embed')


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _without_gradient(num_layers: int, x: jax.Array) -> jax.Array:
    return x


def _without_gradient_backward(num_layers, _, dx):
    is_frozen = (jnp.arange(len(dx)) < num_layers).reshape(-1, *[1] * (dx.ndim - 1))
    return (jnp.where(is_frozen, 0, dx),)


_without_gradient.defvjp(lambda num_layers, x: (x, None), _without_gradient_backward)


def _freeze(num_layers: int, x: jax.Array) -> jax.Array:
    """Return parameters [N, ...], of which those of the first layers have no gradient."""
    return _without_gradient(num_layers, x) if jnp.issubdtype(x.dtype, jnp.inexact) else x


def _all_but_slices(primitive: Any, *_: Any, **__: Any) -> bool:
    """What `remat = 'none'` saves: not the weights of a repeat, cut out for every microbatch."""
    return primitive not in (jax.lax.gather_p, jax.lax.dynamic_slice_p)


# What `Architecture.remat` saves of an iteration, besides its input.
_POLICIES = {
    'none': _all_but_slices,
    'minimal': jax.checkpoint_policies.save_only_these_names(PRODUCT),
    'full': jax.checkpoint_policies.nothing_saveable,
}
