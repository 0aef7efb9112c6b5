"""Weights in the form that decoding reads at every token.

A step of decoding does little but read the weights. What it would do with them every time, it does once here: layers
are cut out of the stack, matrices are cast to the dtype of the computation, and those with the same input are joined.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from palm_jax.models.linear_maps import JOINED, WITH_ONE_INPUT, input_axes
from palm_jax.models.quantization import is_quantized, quantize

Weights = Literal['stored', 'int8']


def unstack_layers(
    model: Any, params: Any, weights: Weights = 'stored', known: dict[tuple[int, ...], Any] | None = None
) -> tuple[Any, Any]:
    """Return model and parameters as decoding uses them, with one entry per layer; see `PaLM.stacked`.

    Linear maps and the embedding have the dtype of the computation, and the maps of one input are one matrix (see
    `Projection`), except where a fine-tuning method reads them (`Method.reads_kernels`); joined are only those that
    every device holds whole.

    Args:
      model: a `PaLM`, with or without methods; an unstacked one is returned as it is.
      params: parameters of `model`; those of the stack are copied.
      weights: `stored` keeps the values of the parameters; `int8` quantizes them, see `quantization`.
      known: results of earlier calls, extended by this one: models that share arrays (adapters on one
        base) then share their copies.
    """
    if not getattr(model, 'model', model).stacked:
        return model, params
    copies = _Copies(
        num_layers=model.arch.num_layers,
        dtype=None if getattr(model, 'reads_kernels', False) else model.arch.dtype,
        weights=weights,
        known={} if known is None else known,
    )
    stack = copies.of_tree(params['stack'], 'stack')
    is_parts = lambda x: isinstance(x, list)  # noqa: E731
    pick = lambda tree, number: jax.tree.map(lambda parts: parts[number], tree, is_leaf=is_parts)  # noqa: E731
    others = {name: pick(copies.of_tree(tree, name), 0) for name, tree in params.items() if name != 'stack'}
    return model.clone(stacked=False), others | {
        'stack': {str(n): pick(stack, n) for n in range(model.arch.num_layers)}
    }


class _Copies:
    """What parameters become, a list with a weight per layer each; without a layers axis, a list of one.

    Args:
      num_layers: number of layers.
      dtype: dtype of the matrices; None leaves them as they are.
      weights, known: see `unstack_layers`.
    """

    def __init__(self, num_layers: int, dtype: DTypeLike | None, weights: Weights, known: dict[tuple[int, ...], Any]):
        self._num_layers, self._dtype, self._weights, self._known = num_layers, dtype, weights, known

    def of_tree(self, tree: Any, path: str) -> Any:
        """Return the tree with a list in the place of every leaf, and matrices of one input joined."""
        if not isinstance(tree, dict):
            return self._of_leaves((tree,), path)
        names = WITH_ONE_INPUT.get(path, ())
        if self._dtype is None or not all(_is_whole(tree[name]) for name in names):
            names = ()
        result = {name: self.of_tree(child, f'{path}/{name}') for name, child in tree.items() if name not in names}
        if names:
            result[JOINED] = self._of_leaves(tuple(tree[name] for name in names), f'{path}/{names[0]}')
        return result

    def _of_leaves(self, leaves: tuple[Any, ...], path: str) -> list[Any]:
        key = tuple(map(id, leaves))
        if key not in self._known:
            layers = zip(*map(_layers, leaves), strict=True) if path.startswith('stack/') else [leaves]
            self._known[key] = leaves, [self._prepare(layer, path) for layer in layers]  # the leaves keep their ids
        return self._known[key][1]

    def _prepare(self, layer: Sequence[Any], path: str) -> Any:
        weight, *others = layer
        if is_quantized(weight) or (inputs := input_axes(path, weight.ndim)) is None:
            return weight
        dtype = None if self._dtype is None else jnp.dtype(self._dtype).name
        if others or self._weights == 'int8' or (dtype is not None and weight.dtype != dtype):
            return _matrix(tuple(layer), inputs, dtype, self._weights)
        return weight


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _matrix(layer: tuple[jax.Array, ...], inputs: tuple[int, ...], dtype: str | None, weights: Weights) -> Any:
    """One weight, or several with one input side by side."""
    weight = layer[0] if len(layer) == 1 else jnp.concatenate([w.reshape(len(w), -1) for w in layer], axis=1)
    if weights == 'int8':
        return quantize(weight, inputs, 'int8')
    return weight if dtype is None else weight.astype(dtype)


def _is_whole(leaf: Any) -> bool:
    """Whether a weight is in its own precision, and whole on every device that holds it."""
    return not is_quantized(leaf) and getattr(getattr(leaf, 'sharding', None), 'is_fully_replicated', True)


def _layers(leaf: Any) -> list[Any]:
    """Return a stacked weight, quantized or not, as one per layer."""
    arrays, structure = jax.tree.flatten(leaf)
    return [jax.tree.unflatten(structure, parts) for parts in zip(*map(jnp.unstack, arrays), strict=True)]
