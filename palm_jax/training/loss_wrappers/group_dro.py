"""Group distributionally robust optimization (Sagawa et al., arXiv 1911.08731): the worst group counts most."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Annotated

import jax
import jax.numpy as jnp

from palm_jax.bounds import AtLeast, AtMost, checked
from palm_jax.errors import UserError
from palm_jax.training.loss_wrappers.of_texts import check_labels_texts
from palm_jax.training.loss_wrappers.wrapper import LossWrapper
from palm_jax.training.metrics import Ratio, one

_STATE = 'group_log_weights'


@checked
@dataclasses.dataclass(frozen=True)
class GroupDRO(LossWrapper):
    """(1 − λ)·L + λ·Σ_g q_g·L_g, L_g the mean loss of a group in the batch and q the weights of the groups.

    In every step q_g ← q_g·exp(η·(L_g + C / √n_g)) for the groups of the batch, n_g the number of their training rows,
    and q is normalized (online algorithm of the paper); the gradient is taken with the new q. Rows without a group have
    their own loss. q is part of the state of the run. With MICROBATCHES, each part of a batch weighs its groups by the
    losses in that part, and q moves once a step, by those of the whole batch.

    Attributes:
      weight: share λ of the robust loss; 0 trains without it, 1 is that of the paper.
      step_size: rate η of the weights (paper: 0.01); 0 keeps them equal, which balances the groups.
      adjustment: constant C of the generalization adjustment (paper: 0 to 5).
      sizes: number of training rows of each group, by name; the batch has the numbers of the groups, from 1 on in this
        order, as `groups`, 0 for none.
    """

    weight: Annotated[float, AtLeast(0), AtMost(1)] = 1.0
    step_size: Annotated[float, AtLeast(0)] = 0.01
    adjustment: Annotated[float, AtLeast(0)] = 0.0
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)

    def check(self, model):
        """Refuse a model that does not label whole texts, and a single group."""
        if self.weight:
            check_labels_texts('GroupDRO', model)
            if len(self.sizes) < 2:
                found = (
                    f'GROUP_COLUMN has {next(iter(self.sizes))!r} alone' if self.sizes else 'GROUP_COLUMN is not set'
                )
                raise UserError(f'GroupDRO needs two groups, and {found}: name a column, --gin.GROUP_COLUMN=...')

    def initial_state(self):
        """Return equal weights, as log q [G]."""
        if not self.weight:
            return {}
        return {_STATE: jnp.full(len(self.sizes), -math.log(max(len(self.sizes), 1)), jnp.float32)}

    def next_state(self, state, metrics):
        """Return the weights after a step, from the losses of the groups in the whole batch."""
        if not self.weight:
            return {}
        of_groups = [metrics[f'group_loss_{name}'] for name in self._names]
        sums_G, counts_G = (jnp.stack([getattr(r, part) for r in of_groups]) for part in ('total', 'count'))
        return {_STATE: self._moved(state[_STATE], sums_G, counts_G)}

    def __call__(self, loss, inputs):
        """Return the loss; see `of_prediction`."""
        return super().__call__(loss, inputs) if self.weight else loss(inputs)

    def of_prediction(self, loss, prediction, inputs):
        """Return the loss; the metrics `group_loss_NAME` and `group_weight_NAME` are the mean loss and q of a group."""
        value, metrics = loss.of_prediction(prediction, inputs)
        if not self.weight:
            return value, metrics
        if 'groups' not in inputs.batch:
            raise UserError('GroupDRO needs the group of every row in the batch: include gin/methods/group_dro.gin.')
        groups_B, weights_B = inputs.batch['groups'], inputs.batch['label_weights'].astype(jnp.float32)

        def of_group(group: jax.Array) -> tuple[jax.Array, jax.Array]:
            masked = inputs.batch | {'label_weights': weights_B * (groups_B == group)}
            of_rows, found = loss.of_prediction(prediction, inputs.replace(batch=masked))
            return of_rows, found['loss'].count

        sums, counts = jax.vmap(of_group)(jnp.arange(len(self.sizes) + 1))  # those without a group come first
        sums_G, counts_G = sums[1:], counts[1:]
        log_q_G = self._moved(inputs.wrapper_state[_STATE], jax.lax.stop_gradient(sums_G), counts_G)
        q_G = jnp.exp(log_q_G)
        robust = counts_G.sum() * (q_G * sums_G / jnp.where(counts_G > 0, counts_G, 1.0)).sum() + sums[0]
        for number, name in enumerate(self._names):
            metrics |= {
                f'group_loss_{name}': Ratio(sums_G[number], counts_G[number]),
                f'group_weight_{name}': one(q_G[number]),
            }
        return (1 - self.weight) * value + self.weight * robust, metrics

    def _moved(self, log_q_G: jax.Array, sums_G: jax.Array, counts_G: jax.Array) -> jax.Array:
        """Return log q after a step on groups with these sums and counts of losses."""
        is_there_G = counts_G > 0
        penalties_G = self.adjustment / jnp.sqrt(jnp.maximum(jnp.array(list(self.sizes.values()), jnp.float32), 1.0))
        losses_G = sums_G / jnp.where(is_there_G, counts_G, 1.0) + penalties_G
        return jax.nn.log_softmax(log_q_G + self.step_size * jnp.where(is_there_G, losses_G, 0.0))

    @property
    def _names(self) -> list[str]:
        """Names of the groups as metrics have them."""
        return [f'{number}_{re.sub(r"[^0-9a-zA-Z_-]+", "_", name)[:40]}' for number, name in enumerate(self.sizes, 1)]
