"""What keeps fine-tuning close to the base: smaller rates in lower layers, a pull towards the start."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp

from palm_jax.errors import UserError
from palm_jax.parameters import path_name
from palm_jax.training.optimizers import Optimizer

_NEW = re.compile(r'head/.*')  # what the base has not, and so is pulled nowhere


def layerwise_decay_and_l2_sp(optimizer: Optimizer, layer_decay: float = 1.0, l2_sp: float = 0.0) -> Optimizer:
    """An optimizer that changes what the base knows more gently.

    Args:
      optimizer: computes the updates.
      layer_decay: γ: updates of layer i of N, counted from 1 at the bottom, are multiplied by
        γ^(N + 1 − i), of the embedding by γ^(N + 1); the final norm's and the head's are not
        (Clark et al., arXiv 2003.10555). 1 leaves all alike.
      l2_sp: α of the penalty α/2 · ‖p − p₀‖² on the distance to where the parameters
        began (Xuhong et al., arXiv 1802.01483); the head's have no such place. Its gradient
        joins the loss's. 0 keeps no copy.

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
        from_the_top = jnp.arange(u.shape[0], 0, -1, dtype=u.dtype)  # of a part of the layers, it is the last ones
        return u * (layer_decay**from_the_top).reshape(-1, *(1,) * (u.ndim - 1))

    return Optimizer(init, update, optimizer.schedule)
