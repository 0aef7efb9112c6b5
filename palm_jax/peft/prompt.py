"""Prompt tuning (Lester et al., arXiv 2104.08691)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from palm_jax.errors import UserError
from palm_jax.models.architecture import Architecture
from palm_jax.models.palm import PaLM
from palm_jax.peft.method import Method, new_param

_COMMON = 5000  # the paper draws from the 5,000 most common pieces


@dataclasses.dataclass(frozen=True)
class Prompt(Method):
    """Learned embeddings that stand before every text; positions behind them begin at P.

    A text's own lengths, labels and features stay as they are: the model's output leaves the
    prompt out. Of packed sequences only a row's first segment sees it.

    Attributes:
      length: P.
      initial_ids: token ids whose mean embedding each place begins with, see `data.prompt_ids`:
        of class labels, or one by one of a text. Places beyond them, all when it is None, begin as
        random common pieces of the vocabulary.
      seed: of those.
    """

    length: int = 20
    initial_ids: Sequence[Sequence[int]] | None = None
    seed: int = 0
    name: str = dataclasses.field(default='prompt', init=False)

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UserError(f'Prompt.length is {self.length}; it must be at least 1.')
        if self.initial_ids is not None:  # hashable, as models that are compiled for must be
            object.__setattr__(self, 'initial_ids', tuple(tuple(ids) for ids in self.initial_ids))

    def intercept(self, next_fun, args, kwargs, context):
        model = context.module
        if not isinstance(model, PaLM) or context.method_name != 'transform':
            return next_fun(*args, **kwargs)
        x_BLD, positions_BL, mask, *rest = args
        P, B = self.length, x_BLD.shape[0]
        prompt_PD = Embeddings(model.arch, P, name=self.name)().astype(x_BLD.dtype)
        if not model.is_initializing() and model.has_variable('cache', 'stack'):
            # The prompt is in the cache already, and the text P places behind where it says.
            return next_fun(x_BLD, positions_BL + P, mask, *rest)
        x_BLD = jnp.concatenate([jnp.broadcast_to(prompt_PD, (B, *prompt_PD.shape)), x_BLD], axis=1)
        own = jnp.broadcast_to(jnp.arange(P), (positions_BL.shape[0], P))
        positions_BL = jnp.concatenate([own, positions_BL + P], axis=1)

        def before(x_BL):
            return x_BL if x_BL is None else jnp.concatenate([jnp.repeat(x_BL[:, :1], P, axis=1), x_BL], axis=1)

        mask = mask.replace(segment_ids=before(mask.segment_ids), causal_attention=before(mask.causal_attention))
        return next_fun(x_BLD, positions_BL, mask, *rest)[:, P:]

    def start(self, beside, own):
        """The embeddings of the tokens it begins as."""
        embedding_VD = jnp.asarray(beside['embed']['embedding'])
        common = min(_COMMON, embedding_VD.shape[0])
        ids_P = jax.random.choice(jax.random.key(self.seed), common, (self.length,), replace=self.length > common)
        prompt_PD = embedding_VD[ids_P]
        for place, ids in enumerate((self.initial_ids or ())[: self.length]):
            prompt_PD = prompt_PD.at[place].set(embedding_VD[jnp.array(ids)].mean(axis=0))
        return own | {'embedding': prompt_PD.astype(own['embedding'].dtype)}


class Embeddings(nn.Module):
    """The prompt."""

    arch: Architecture
    length: int

    @nn.compact
    def __call__(self) -> jax.Array:
        """[P, D]."""
        return new_param(
            self, 'embedding', nn.initializers.normal(1.0), (self.length, self.arch.d_model), ('prompt', 'embed')
        )
