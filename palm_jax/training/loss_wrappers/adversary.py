"""What adversarial methods share: passes over embedded inputs that move against the model."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from palm_jax.models.embedded_inputs import WithEmbeddedInputs
from palm_jax.training.loss_wrappers.wrapper import Batch, Loss, LossInputs, LossWrapper, Rows, SumAndMetrics
from palm_jax.training.metrics import Metrics, Ratio

_Whole = Callable[[list[Any]], Any]
_TINY = 1e-8  # smallest norm that is divided by


class Adversary(LossWrapper):
    """Σ_t w_t·L(x + δ_t) over perturbations δ_0, δ_1, ... of the embedded inputs x, each found from the one before.

    One pass through the model gives both its part of the gradient of the parameters and the gradient with respect to
    δ_t, from which δ_{t+1} follows without a gradient. All passes have the same dropout masks. Norms are float32, over
    all tokens of a row together, and padding is not perturbed.
    """

    stage: ClassVar[int] = 2

    @property
    @abc.abstractmethod
    def weights(self) -> tuple[float, ...]:
        """Weights w_t of the passes, the first above 0; the parameters have no gradient in those of weight 0."""

    @property
    @abc.abstractmethod
    def is_off(self) -> bool:
        """Whether training is that without the adversary."""

    @abc.abstractmethod
    def ascend(self, delta_BLD: jax.Array, gradient_BLD: jax.Array) -> jax.Array:
        """Return the next perturbation, from the last one and the gradient of the loss with respect to it."""

    def start(self, rng: jax.Array, is_token_BL1: jax.Array, d_model: int) -> jax.Array:
        """Return the first perturbation, float32 [B, L, D]."""
        del rng
        return jnp.zeros((*is_token_BL1.shape[:2], d_model), jnp.float32)

    def rows(self, inner: Rows, row: Mapping[str, Any]) -> Rows:
        """Return every row in every pass; the passes are one after another."""
        return inner if self.is_off else dataclasses.replace(inner, in_all=inner.in_all * len(self.weights))

    def __call__(self, loss: Loss, inputs: LossInputs) -> SumAndMetrics:
        """Return the loss, and the metrics of the first pass.

        Beside them, `adversarial_loss` is the loss of the last pass, and `perturbation` the norm of δ in that pass, a
        mean over rows.
        """
        if self.is_off:
            return loss(inputs)
        return _with_gradient(functools.partial(self._passes, loss, inputs), inputs.params)

    def _passes(
        self, loss: Loss, inputs: LossInputs, trained: list[Any], whole: _Whole
    ) -> tuple[SumAndMetrics, list[Any]]:
        is_token_BL1 = is_token(inputs.batch)[..., None]
        delta = self.start(jax.random.fold_in(inputs.rng, 1), is_token_BL1, inputs.model.arch.d_model)
        weights = self.weights
        model = inputs.model.clone(frozen_layers=0) if len(weights) > 1 else inputs.model  # gradients reach the inputs

        def loss_of(trained: list[Any], delta: jax.Array) -> SumAndMetrics:
            changed = WithEmbeddedInputs(model, lambda x_BLD: _plus(x_BLD, delta))
            return loss(inputs.replace(model=changed, params=whole(trained)))

        total: Any = None
        metrics: list[Metrics] = []
        for number, weight in enumerate(weights):
            is_last = number + 1 == len(weights)
            wanted = (*((0,) if weight else ()), *(() if is_last else (1,)))
            (value, of_pass), gradients = jax.value_and_grad(loss_of, wanted, has_aux=True)(trained, delta)
            metrics.append(of_pass)
            if weight:
                part = (value, gradients[0])
                part = (
                    part if weight == 1 else jax.tree.map(lambda x, weight=weight: (weight * x).astype(x.dtype), part)
                )
                total = part if total is None else jax.tree.map(jnp.add, total, part)
            if not is_last:
                delta = self.ascend(delta, gradients[-1] * is_token_BL1)
        size = norm(delta)
        more = {'adversarial_loss': metrics[-1]['loss'], 'perturbation': Ratio(size.sum(), jnp.float32(size.size))}
        return (total[0], metrics[0] | more), total[1]


def norm(x_BLD: jax.Array) -> jax.Array:
    """Euclidean norm of each row, float32 [B, 1, 1]."""
    return jnp.sqrt(jnp.square(x_BLD.astype(jnp.float32)).sum(axis=(1, 2), keepdims=True))


def unit(x_BLD: jax.Array) -> jax.Array:
    """Each row divided by its norm; a row of zeros stays one."""
    return x_BLD / jnp.maximum(norm(x_BLD), _TINY)


def project(x_BLD: jax.Array, radius: float) -> jax.Array:
    """Each row, shortened to a norm of at most `radius`."""
    return x_BLD * jnp.minimum(1.0, radius / jnp.maximum(norm(x_BLD), _TINY))


def _plus(x_BLD: jax.Array, delta_BLD: jax.Array) -> jax.Array:
    """Return x + δ in the dtype of x; wrappers inside may have repeated the rows of x, each next to itself."""
    delta_BLD = jnp.repeat(delta_BLD, len(x_BLD) // len(delta_BLD), axis=0)
    return (x_BLD.astype(jnp.float32) + delta_BLD).astype(x_BLD.dtype)


def is_token(batch: Batch) -> jax.Array:
    """Return the positions that hold a token, not padding: boolean [B, L]."""
    name = 'decoder_segment_ids' if 'decoder_segment_ids' in batch else 'decoder_target_tokens'
    return batch[name] != 0


def _with_gradient(
    passes: Callable[[list[Any], _Whole], tuple[SumAndMetrics, list[Any]]], params: Any
) -> SumAndMetrics:
    """Call `passes`, which computes its own gradient for those parameters that are differentiated.

    Args:
      passes: function of the differentiated leaves, and of a function that completes them to all parameters; returns
        the value and its gradient.
      params: all parameters.
    """

    @jax.custom_vjp
    def value(params: Any) -> SumAndMetrics:
        return passes([], lambda _: params)[0]

    def forward(primals: Any) -> tuple[SumAndMetrics, Any]:
        leaves, tree = jax.tree.flatten(primals)

        def whole(trained: list[Any]) -> Any:
            given = iter(trained)
            return jax.tree.unflatten(tree, [next(given) if leaf.perturbed else leaf.value for leaf in leaves])

        result, gradient = passes([leaf.value for leaf in leaves if leaf.perturbed], whole)
        given = iter(gradient)
        return result, jax.tree.unflatten(tree, [next(given) if leaf.perturbed else None for leaf in leaves])

    def backward(gradient: Any, cotangents: Any) -> tuple[Any]:
        factor = cotangents[0]
        if isinstance(factor, SymbolicZero):
            return (jax.tree.map(jnp.zeros_like, gradient),)
        return (jax.tree.map(lambda g: (g * factor).astype(g.dtype), gradient),)

    value.defvjp(forward, backward, symbolic_zeros=True)
    return value(params)
