"""One step of training: loss, gradient, update."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from palm_jax.errors import UserError
from palm_jax.models import pipeline
from palm_jax.models.linear_maps import cast_linear_maps
from palm_jax.models.model import Model
from palm_jax.peft.trainable import join
from palm_jax.training import metrics as metrics_lib
from palm_jax.training.loss_wrappers.wrapper import LossInputs, LossWrapper, wrap
from palm_jax.training.metrics import Metrics
from palm_jax.training.optimizers import Optimizer
from palm_jax.training.state import TrainState

Batch = dict[str, jax.Array]
LossFn = Callable[..., tuple[jax.Array, Metrics]]


def train_step(
    state: TrainState,
    batch: Batch,
    run_rng: jax.Array,
    *,
    model: Model,
    loss: LossFn,
    optimizer: Optimizer,
    microbatches: int = 1,
    wrappers: Sequence[LossWrapper] = (),
    penalty: Callable[[Any], jax.Array | float] | None = None,
    teachers: Mapping[str | None, Any] | None = None,
) -> tuple[TrainState, Metrics]:
    """Take one optimizer step on the mean loss over all targets of the batch.

    Args:
      state: current state; donate it.
      batch: features [B, L].
      run_rng: key of the run; dropout's key is a function of it, of the step and of the microbatch.
      model: the model, with its fine-tuning methods.
      loss: weighted sum and metrics of a batch, see `LanguageModelLoss`.
      optimizer: update rule, see `optimizers`.
      microbatches: number of parts of B that are computed one after another. Sums and counts are added and divided
        once, so the result does not depend on it (dropout's pattern does).
      wrappers: methods around the loss, from the inside out.
      penalty: term that is added to the mean loss, a function of all parameters, see `AdaptedModel.penalty`; None
        adds none.
      teachers: parameters of other models that the wrappers read, by path; None is none.

    Returns:
      The next state, and the metrics of this step.
    """
    step_rng, wrapped = jax.random.fold_in(run_rng, state.step), wrap(loss, wrappers)

    def loss_sum(params: Any, microbatch: Batch, index: jax.Array) -> tuple[jax.Array, Metrics]:
        return wrapped(loss_inputs(state, params, microbatch, jax.random.fold_in(step_rng, index), model, teachers))

    params, uncast = _cast_once(state.params, model, microbatches)

    def gradient(microbatch: Batch, index: jax.Array) -> tuple[Any, Metrics]:
        grads, metrics = jax.grad(loss_sum, has_aux=True)(params, microbatch, index)
        return *uncast(grads), metrics

    if microbatches == 1:
        grads, metrics = gradient(batch, jnp.zeros((), jnp.int32))
    else:
        grads, metrics = _accumulate(gradient, split(batch, microbatches))
    count = metrics['loss'].count
    count = jnp.where(count > 0, count, 1.0)  # weights may sum to less than 1; without any, the gradient is 0
    grads = jax.tree.map(lambda g: g / count.astype(g.dtype), grads)
    if penalty is not None:  # of the parameters as they are stored, not as they are cast
        of_penalty = jax.grad(lambda params: jnp.asarray(penalty(join(params, state.frozen)), jnp.float32))
        grads = jax.tree.map(jnp.add, grads, of_penalty(state.params))
    for wrapper in wrappers:
        if wrapper.penalty_name is not None:
            term = functools.partial(_penalty, wrapper, model, state)
            value, of_term = jax.value_and_grad(term)(state.params)
            grads = jax.tree.map(jnp.add, grads, of_term)
            metrics |= {wrapper.penalty_name: metrics_lib.one(value)}
    wrapper_state = {k: x for w in wrappers for k, x in w.next_state(state.wrapper_state, metrics).items()}
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics |= {
        'gradient_norm': metrics_lib.one(optax.global_norm(grads)),
        'learning_rate': metrics_lib.one(optimizer.schedule(state.step)),
    }
    step = state.step + 1
    state = dataclasses.replace(state, step=step, params=params, opt_state=opt_state, wrapper_state=wrapper_state)
    return state, metrics


def loss_inputs(
    state: TrainState,
    params: Any,
    batch: Batch,
    rng: jax.Array,
    model: Model,
    teachers: Mapping[str | None, Any] | None = None,
) -> LossInputs:
    """Return what the loss of a batch is computed from.

    Args:
      state: current state.
      params: trained parameters, which need not be those of the state.
      batch: features [B, ...].
      rng: key of the batch.
      model, teachers: see `train_step`.
    """
    keys = rng if model.has_dropout else None, rng
    of_state = state.step, _start(state), state.wrapper_state
    return LossInputs(model, join(params, state.frozen), batch, *keys, *of_state, teachers or {})


def _start(state: TrainState) -> Any:
    """All parameters as the run began; None if the state does not keep them."""
    return join(state.anchor['start'], state.frozen) if 'start' in state.anchor else None


def _penalty(wrapper: LossWrapper, model: Model, state: TrainState, params: Any) -> jax.Array:
    """Return the penalty of a wrapper on trained parameters."""
    return wrapper.penalty(model, join(params, state.frozen), _start(state), state.anchor)


def _cast_once(params: Any, model: Model, microbatches: int) -> tuple[Any, Callable[[Any], tuple[Any]]]:
    """Return parameters as the passes of a step read them, and the function from their gradient to that of `params`.

    Linear maps are cast once a step where several passes or an unrolled model read them, and their gradients are small
    until they are added. A loop over the layers casts one layer at a time, which needs no copy of all. A pipeline adds
    the gradients of its microbatches, too, in the dtype in which it receives the weights.
    """
    if (microbatches == 1 and model.arch.unroll_layers != 0) or pipeline.current() is not None:
        return params, lambda gradient: (gradient,)
    return jax.vjp(functools.partial(cast_linear_maps, dtype=model.arch.dtype), params)


def eval_step(state: TrainState, batch: Batch, *, model: Model, loss: LossFn) -> Metrics:
    """Return the metrics of one batch, without dropout."""
    return loss(model, state.all_params, batch)[1]


def split(batch: Batch, parts: int) -> Batch:
    """Reshape [B, ...] to [parts, B / parts, ...]; every part is strided, so that it keeps the batch's sharding."""
    size = len(next(iter(batch.values())))
    if size % parts:
        raise UserError(f'MICROBATCHES = {parts} does not divide BATCH_SIZE = {size}.')
    return {name: x.reshape(size // parts, parts, *x.shape[1:]).swapaxes(0, 1) for name, x in batch.items()}


def _accumulate(fn: Callable[[Batch, jax.Array], Any], parts: Batch) -> Any:
    """Sum fn over the parts, one at a time."""
    num_parts = len(next(iter(parts.values())))
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(fn, first, jnp.zeros((), jnp.int32)))

    def body(total, part):
        return jax.tree.map(jnp.add, total, fn(*part)), None

    return jax.lax.scan(body, zeros, (parts, jnp.arange(num_parts)))[0]
