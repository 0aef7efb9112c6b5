"""AdaLoRA (Zhang et al., arXiv 2303.10512)."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from palm_jax.bounds import AtLeast, Positive, Rate, checked
from palm_jax.errors import UserError
from palm_jax.parameters import path_name
from palm_jax.peft.lora import LoRA


@checked
@dataclasses.dataclass(frozen=True)
class AdaLoRA(LoRA):
    """W + scale · A·diag(E)·B, a learned SVD whose least important ranks are pruned during training.

    All kernels begin with `rank` and share a budget that falls by a cubic to `target_rank` times
    their number. A triplet (a column of A, an entry of E, a row of B) is worth the score of its
    entry and the mean scores of its column and row; a weight's score is its sensitivity |p·∂L/∂p|,
    smoothed, times the smoothed distance of its sensitivity from that. A triplet outside the
    budget has its entry of E set to zero, and can return until the final steps begin.

    A and B begin normal, E at zero, so the start equals the base; scale = α / R as in peft.

    Attributes:
      rank: rank R of every kernel at the start.
      alpha: numerator α of the scale.
      targets: regular expression of the kernels that are adapted.
      dropout_rate: dropout rate on the input of A.
      target_rank: mean rank at the end, at most `rank`.
      total_steps: number of steps of the run.
      warmup_steps: steps before the budget begins to fall; None: a tenth of the run.
      final_steps: steps at the end during which the ranks no longer change; None: three tenths of the run.
      allocation_period: steps between two allocations.
      beta1: decay of the moving average of the sensitivity.
      beta2: decay of the moving average of its uncertainty.
      orthogonality: weight of the mean of ‖AᵀA − I‖ and ‖BBᵀ − I‖ in the loss.
      init_std: standard deviation of A and B at the start.
    """

    rank: Annotated[int, AtLeast(1)] = 12
    alpha: Positive = 24.0
    use_rslora: bool = dataclasses.field(default=False, init=False)
    use_dora: bool = dataclasses.field(default=False, init=False)
    target_rank: Annotated[int, AtLeast(1)] = 8
    total_steps: Annotated[int, AtLeast(1)] = 1000
    warmup_steps: Annotated[int, AtLeast(0)] | None = None
    final_steps: Annotated[int, AtLeast(0)] | None = None
    allocation_period: Annotated[int, AtLeast(1)] = 10
    beta1: Rate = 0.85
    beta2: Rate = 0.85
    orthogonality: Annotated[float, AtLeast(0)] = 0.5
    init_std: Annotated[float, AtLeast(0)] = 0.02
    diagonal: bool = dataclasses.field(default=True, init=False)
    name: str = dataclasses.field(default='adalora', init=False)

    def __post_init__(self) -> None:
        if self.target_rank > self.rank:
            raise UserError(f'AdaLoRA.target_rank is {self.target_rank}; it must be at most rank = {self.rank}.')
        first, last = self._falling
        if not 0 <= first < last:
            raise UserError(
                f'AdaLoRA: of total_steps = {self.total_steps}, warmup_steps = {first} and final_steps = '
                f'{self.total_steps - last} leave no step in which the budget could fall. Lower them.'
            )

    @property
    def scale(self) -> float:
        """Factor of A·diag(E)·B."""
        return self.alpha / (self.rank + 1e-5)

    @property
    def init_a(self):
        return nn.initializers.normal(self.init_std)

    @property
    def init_b(self):
        return nn.initializers.normal(self.init_std)

    @property
    def _falling(self) -> tuple[int, int]:
        """First and last of the steps over which the budget falls."""
        warmup = self.total_steps // 10 if self.warmup_steps is None else self.warmup_steps
        final = 3 * self.total_steps // 10 if self.final_steps is None else self.final_steps
        return warmup, self.total_steps - final

    def budget(self, num_kernels: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of triplets kept at steps 0 to total_steps, and whether they are chosen there."""
        steps = np.arange(self.total_steps + 1)
        first, last = self._falling
        start, end = self.rank * num_kernels, self.target_rank * num_kernels
        rest = 1 - np.clip((steps - first) / (last - first), 0, 1)
        kept = ((start - end) * rest**3 + end).astype(np.int64)
        chosen = (steps > first) & (steps % self.allocation_period == 0) & (steps < last) | (steps == last)
        return kept, chosen

    def penalty(self, params):
        """Return `orthogonality` times the mean Frobenius distance of AᵀA and BBᵀ from I."""
        eye, distances = jnp.eye(self.rank), []
        for a_NDR, _, b_NRF in self._triplets(params).values():
            for gram_NRR in (
                jnp.einsum('NDR,NDS->NRS', a_NDR, a_NDR, precision='highest'),
                jnp.einsum('NRF,NSF->NRS', b_NRF, b_NRF, precision='highest'),
            ):
                distances.append(jnp.linalg.norm(gram_NRR - eye, axis=(1, 2)))
        return self.orthogonality * jnp.mean(jnp.concatenate(distances))

    def wrap_optimizer(self, optimizer):
        """Score every triplet after each update, and set E to zero outside the budget."""

        def init(params):
            method_params = self._own(params)
            zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), method_params)
            return {
                'inner': optimizer.init(params),
                'count': jnp.zeros((), jnp.int32),
                'sensitivity': zeros,
                'uncertainty': jax.tree.map(jnp.copy, zeros),
                'kept': jax.tree.map(lambda e: jnp.ones(e.shape, bool), _part(method_params, '.*_e')),
            }

        def update(grads, state, params):
            updates, inner = optimizer.update(grads, state['inner'], params)
            count = state['count'] + 1
            after = self._own(optax.apply_updates(params, updates))
            averages = self._smoothed(state, after, self._own(grads), count)
            kept = self._allocated(state['kept'], jax.tree.map(jnp.multiply, *averages), count)
            by_path = {path_name(path): keep for path, keep in jax.tree_util.tree_leaves_with_path(kept)}

            def masked(path, update, param):
                keep = by_path.get(path_name(path))
                return update if keep is None else jnp.where(keep, update, -param)

            updates = jax.tree_util.tree_map_with_path(masked, updates, params)
            names = ('inner', 'count', 'sensitivity', 'uncertainty', 'kept')
            return updates, dict(zip(names, (inner, count, *averages, kept), strict=True))

        return optimizer._replace(init=init, update=update)

    def _smoothed(self, state: Any, params: Any, grads: Any, count: jax.Array) -> tuple[Any, Any]:
        """Return the moving averages of sensitivity and uncertainty, constant after the last choice."""
        now = jax.tree.map(lambda p, g: jnp.abs(p * g).astype(jnp.float32), params, grads)

        def average(beta, old, new):
            return jax.tree.map(
                lambda o, n: jnp.where(count < self._falling[1], beta * o + (1 - beta) * n, o), old, new
            )

        sensitivity = average(self.beta1, state['sensitivity'], now)
        distance = jax.tree.map(lambda n, s: jnp.abs(n - s), now, sensitivity)
        return sensitivity, average(self.beta2, state['uncertainty'], distance)

    def _allocated(self, kept: Any, scores: Any, count: jax.Array) -> Any:
        """Return which entries of E are kept.

        At a choice those above the threshold are; between choices all are, and after the last one
        those that it kept.
        """
        worth = {
            path: e_NR + a_NDR.mean(axis=1) + b_NRF.mean(axis=2)
            for path, (a_NDR, e_NR, b_NRF) in self._triplets(scores).items()
        }
        in_order = jnp.sort(jnp.concatenate([w.ravel() for w in worth.values()]))
        budgets, choices = self.budget(len(in_order) // self.rank)
        step = jnp.minimum(count, self.total_steps)
        given_up, chooses = len(in_order) - jnp.asarray(budgets)[step], jnp.asarray(choices)[step]
        threshold = jnp.where(given_up > 0, in_order[given_up - 1], -jnp.inf)

        def keep(path, was):
            above = worth[path_name(path)].reshape(was.shape) > threshold
            return jnp.where(chooses, above, was | (count < self._falling[1]))

        return jax.tree_util.tree_map_with_path(keep, kept)

    def _own(self, params: Any) -> Any:
        return _part(params, rf'(.*/)?{self.name}/.*')

    def _triplets(self, params: Any) -> dict[str, tuple[jax.Array, jax.Array, jax.Array]]:
        """Return A [N, D, R], E [N, R] and B [N, R, F] in float32, by the paths of E."""
        leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(self._own(params))}
        triplets = {}
        for path, e in leaves.items():
            if path.endswith('_e'):
                a, b = (leaves[path[:-1] + name].astype(jnp.float32) for name in 'ab')
                fan_in = math.prod(a.shape[e.ndim - 1 : -1])
                triplets[path] = (
                    a.reshape(-1, fan_in, self.rank),
                    e.reshape(-1, self.rank).astype(jnp.float32),
                    b.reshape(-1, self.rank, math.prod(b.shape[e.ndim :])),
                )
        return triplets


def _part(tree: Any, pattern: str, path: str = '') -> Any:
    """Return nested dicts with only the leaves whose paths match; leaves may be boxed with their logical axes."""
    result = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            value = _part(value, pattern, f'{path}{key}/')
        elif not re.fullmatch(pattern, path + key):
            continue
        if not isinstance(value, dict) or value:
            result[key] = value
    return result
