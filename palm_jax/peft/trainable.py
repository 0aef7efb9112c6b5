"""Which parameters are trained: a tree split into a trained and a frozen part, and joined again."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from palm_jax.errors import UserError
from palm_jax.parameters import path_mask


@dataclasses.dataclass(frozen=True)
class Trainable:
    """The parameters that a run trains.

    Only they are differentiated and have optimizer state; all others are frozen.

    Attributes:
      patterns: regular expressions of whole paths; each must match a parameter.
      top_layers: number of last layers that are trained of what matches below `stack/`; None: all.
    """

    patterns: tuple[str, ...] = ('.*',)
    top_layers: int | None = None

    def split(self, params: Any) -> tuple[Any, Any]:
        """Split parameters in (trained, frozen): nested dicts, each with the leaves that the other lacks.

        A stacked leaf of which only the top layers are trained is in both, [k, ...] in the
        first and [N - k, ...] in the second. Leaves may be boxed with their logical axes.

        Raises:
          UserError: a pattern matches no parameter, or nothing is trained.
        """
        chosen = path_mask(self.patterns, jax.tree.map(lambda _: 0, params, is_leaf=_is_boxed), 'TRAINABLE')
        if not any(jax.tree.leaves(chosen)):
            raise UserError(
                "TRAINABLE is empty and the model has no head: nothing is trained. Set e.g. TRAINABLE = ['stack/.*']."
            )
        return self._part(params, chosen, True, False), self._part(params, chosen, False, False)

    def _part(self, params: Any, chosen: Any, trained: bool, stacked: bool) -> Any:
        result = {}
        for key, value in params.items():
            if isinstance(value, dict):
                inner = self._part(value, chosen[key], trained, stacked or key == 'stack')
                if inner:
                    result[key] = inner
            elif chosen[key] and stacked and self.top_layers is not None:
                num_layers = _length(value)
                if not 0 < self.top_layers <= num_layers:
                    raise UserError(
                        f'TRAINABLE_LAYERS is {self.top_layers}; it must be at least 1 and at most {num_layers}.'
                    )
                first = num_layers - self.top_layers
                part = slice(first, None) if trained else slice(0, first)
                if trained or first:
                    result[key] = jax.tree.map(lambda x, part=part: x[part], value)
            elif chosen[key] == trained:
                result[key] = value
        return result

    def frozen_layers(self, trained: Any, num_layers: int) -> int:
        """Return how many layers at the bottom need no backward pass; `trained` is the first part of `split`."""
        if self.top_layers is None or not trained.keys() <= {'stack', 'final_norm', 'head'}:
            return 0
        return num_layers - self.top_layers


def join(trained: Any, frozen: Any) -> Any:
    """Join the two parts of `Trainable.split` to the whole tree."""
    result = dict(frozen)
    for key, value in trained.items():
        if key not in frozen:
            result[key] = value
        elif isinstance(value, dict):
            result[key] = join(value, frozen[key])
        else:
            result[key] = jnp.concatenate([frozen[key], value])
    return result


def _length(leaf: Any) -> int:
    return jax.tree.leaves(leaf)[0].shape[0]


def _is_boxed(leaf: Any) -> bool:
    return isinstance(leaf, nn.meta.AxisMetadata)
