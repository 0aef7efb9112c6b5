"""Fine-tuning that stays close to the base: layer-wise learning-rate decay and L2-SP."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp

from palm_jax.errors import UserError
from palm_jax.parameters import path_name
from palm_jax.training.optimizers import Optimizer

_NEW = re.compile(r'head/.*')  # parameters that the base lacks, which are not pulled


def layerwise_decay_and_l2_sp(optimizer: Optimizer, layer_decay: float = 1.0, l2_sp: float = 0.0) -> Optimizer:
    """Wrap an optimizer with layer-wise learning-rate decay and an L2 penalty on the distance from the start.

    Args:
      optimizer: optimizer that computes the updates.
      layer_decay: γ. Updates of layer i of N, counted from 1 at the bottom, are multiplied by γ^(N + 1 − i), those of
        the embedding by γ^(N + 1); those of the final norm and the head are not (ELECTRA: Clark et al.,
        arXiv 2003.10555). 1 scales nothing.
      l2_sp: α of the penalty α/2 · ‖p − p₀‖² on the distance from the initial parameters, without the head's
        (L2-SP: Xuhong et al., arXiv 1802.01483). Its gradient is added to the loss's. 0 keeps no copy of them.

    Returns:
      An optimizer with the same schedule.
    """
    if not 0 < layer_decay <= 1:
        raise UserError(f'LAYERWISE_LR_DECAY is {layer_decay}; it must be above 0 and at most 1.')
    if l2_sp < 0:
        raise UserError(f'L2_SP is {l2_sp}; it must not be negative.')

    def init(params: Any) -> dict[str, Any]:
        start = {'start': jax.tree.map(jnp.copy, params)} if l2_sp else {}
        return {'optimizer': optimizer.init(params)} | start

    def update(grads: Any, state: dict[str, Any], params: Any) -> tuple[Any, dict[str, Any]]:
        if l2_sp:
            grads = jax.tree_util.tree_map_with_path(_pull, grads, params, state['start'])
        updates, inner = optimizer.update(grads, state['optimizer'], params)
        if layer_decay < 1:
            num_layers = max((x.shape[0] for x in jax.tree.leaves(updates.get('stack', {}))), default=0)
            updates = jax.tree_util.tree_map_with_path(lambda path, u: _scale(path, u, num_layers), updates)
        return updates, state | {'optimizer': inner}

    def _pull(path, g, p, start):
        return g if _NEW.fullmatch(path_name(path)) else g + (l2_sp * (p - start)).astype(g.dtype)

    def _scale(path, u, num_layers):
        name = path_name(path)
        if name.startswith('embed/'):
            return u * layer_decay ** (num_layers + 1)
        if not name.startswith('stack/'):
            return u
        from_the_top = jnp.arange(u.shape[0], 0, -1, dtype=u.dtype)  # trained layers are the top ones
        return u * (layer_decay**from_the_top).reshape(-1, *(1,) * (u.ndim - 1))

    return Optimizer(init, update, optimizer.schedule)
