"""Logits steered by two further models (DExperts, Liu et al., arXiv 2105.03023), as one model that decoding runs.

    z + a·(z⁺ − z⁻)

z are the logits of the base, z⁺ those of an expert, trained on what is wanted, z⁻ those of an anti-expert, trained on
what is not. Where one of the two is missing, the base takes its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from palm_jax.bounds import Above, AtLeast, AtMost, checked
from palm_jax.inference.sampling import SamplingParams, truncated


@checked
@dataclasses.dataclass(frozen=True)
class Steering:
    """Which models steer, and how much.

    Attributes:
      expert: MODEL_DIR of a model that writes what is wanted; None for none.
      anti_expert: MODEL_DIR of a model that writes what is not wanted; None for none.
      strength: factor a (paper: 2 against toxicity).
      top_p: nucleus of the base, outside of which nothing is generated however the others like it (paper: 0.9); 1 keeps
        every token.
    """

    expert: str | None = None
    anti_expert: str | None = None
    strength: Annotated[float, AtLeast(0)] = 2.0
    top_p: Annotated[float, Above(0), AtMost(1)] = 1.0

    @property
    def is_on(self) -> bool:
        """Whether any model steers."""
        return self.strength > 0 and (self.expert is not None or self.anti_expert is not None)


@dataclasses.dataclass(frozen=True)
class SteeredModel:
    """A base with an expert, an anti-expert or both, which decoding runs as it runs one model.

    Its parameters and its cache are those of the parts by name. Its features are those of the parts beside each other.

    Attributes:
      parts: (name, unstacked model) of `base` and of `expert`, `anti_expert` or both; see `decoding.unstack_layers`.
      strength: factor a.
      top_p: nucleus of the base.
    """

    parts: tuple[tuple[str, Any], ...]
    strength: float = 2.0
    top_p: float = 1.0

    stacked = False

    @property
    def arch(self) -> Any:
        """Architecture of the base."""
        return dict(self.parts)['base'].arch

    def apply(self, variables: Any, *inputs: Any, method: str | Callable[..., Any], mutable: Any = None) -> Any:
        """Call all parts: for their features (and caches), or for steered logits of such features.

        Args:
          variables: `params`, and `cache` if there is one, by the names of the parts.
          *inputs: arguments of `features`, or features of all parts.
          method: `features`, or a function of (module, features) that returns logits.
          mutable: collections that are returned besides; `['cache']` or None.
        """
        if method == 'features':
            return self._features(variables, inputs, mutable)
        assert callable(method)
        (h_BLE,) = inputs
        logits, start = {}, 0
        for name, model in self.parts:
            part = h_BLE[..., start : start + model.arch.d_model].astype(model.arch.dtype)
            start += model.arch.d_model
            of_part = model.apply({'params': variables['params'][name]}, part, method=method)
            logits[name] = of_part.astype(jnp.float32)
        base = logits['base']
        difference = logits.get('expert', base) - logits.get('anti_expert', base)
        return self._nucleus(base, base + self.strength * difference)

    def _features(self, variables: Any, inputs: tuple[Any, ...], mutable: Any) -> Any:
        features, caches = [], {}
        for name, model in self.parts:
            own = {collection: of_parts[name] for collection, of_parts in variables.items()}
            if mutable is None:
                features.append(model.apply(own, *inputs, method='features'))
                continue
            h_BLD, changed = model.apply(own, *inputs, method='features', mutable=mutable)
            features.append(h_BLD)
            caches[name] = changed['cache']
        h_BLE = jnp.concatenate(features, axis=-1)
        return h_BLE if mutable is None else (h_BLE, {'cache': caches})

    def _nucleus(self, base: jax.Array, steered: jax.Array) -> jax.Array:
        """Return steered logits, −inf outside the nucleus of the base."""
        if self.top_p >= 1:
            return steered
        rows = base.reshape(-1, base.shape[-1])
        filled = lambda value, dtype: jnp.full(len(rows), value, dtype)  # noqa: E731
        none = filled(0, jnp.int32)
        nucleus = SamplingParams(
            temperature=filled(1, jnp.float32), top_k=none, top_p=filled(self.top_p, jnp.float32),
            min_p=filled(0, jnp.float32), repetition_penalty=filled(1, jnp.float32),
            seed=none, number=none, sample=none,
        )  # fmt: skip
        kept = jnp.isfinite(truncated(rows, nucleus)).reshape(base.shape)
        return jnp.where(kept, steered, -jnp.inf)
