"""Fine-tuning close to the base: layer-wise learning rate decay and L2-SP."""

from __future__ import annotations

import re
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from palm_jax.bounds import Above, AtLeast, AtMost, checked
from palm_jax.parameters import path_name
from palm_jax.training.optimizers import Optimizer

_NEW = re.compile(r'head/.*')  # parameters that the base does not have


@checked
def layerwise_decay_and_l2_sp(
    optimizer: Optimizer,
    layer_decay: Annotated[float, Above(0), AtMost(1)] = 1.0,
    l2_sp: Annotated[float, AtLeast(0)] = 0.0,
) -> Optimizer:
    """Wrap an optimizer so that the lower layers change less and all weights stay near their start.

    Args:
      optimizer: optimizer that computes the updates.
      layer_decay: factor γ per layer: updates of layer i of N, counted from 1 at the bottom, are
        multiplied by γ^(N + 1 − i), those of the embedding by γ^(N + 1); those of the final norm and
        the head are unchanged (Clark et al., arXiv 2003.10555). 1: no decay.
      l2_sp: weight α of the penalty α/2 · ‖p − p₀‖², the distance of the base's parameters from
        their start (Xuhong et al., arXiv 1802.01483), whose gradient is added to that of the loss.
        0: no penalty and no copy of the start.

    Returns:
      An optimizer with the same schedule.
    """

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
        from_the_top = jnp.arange(u.shape[0], 0, -1, dtype=u.dtype)  # a part of the layers is the last ones
        return u * (layer_decay**from_the_top).reshape(-1, *(1,) * (u.ndim - 1))

    return Optimizer(init, update, optimizer.schedule)
