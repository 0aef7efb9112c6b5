"""Prompt tuning (Lester et al., arXiv 2104.08691)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from palm_jax.bounds import AtLeast, Seed, checked
from palm_jax.models.architecture import Architecture
from palm_jax.models.palm import PaLM
from palm_jax.peft.method import Method, new_param

_COMMON = 5000  # the paper draws from the 5,000 most common pieces


@checked
@dataclasses.dataclass(frozen=True)
class SoftPrompt(Method):
    """Learned embeddings before every text, whose own positions begin at P.

    Lengths, labels and features of the text do not change: the model's output omits the prompt. In
    packed rows only the first segment sees it.

    Attributes:
      length: number P of learned embeddings.
      initial_ids: for each position the token ids whose mean embedding it starts as, see
        `palm_jax.data.vocabulary.prompts.initial_ids`. Positions without ids, or all for None, start
        as random common tokens.
      seed: seed for the random tokens.
    """

    length: Annotated[int, AtLeast(1)] = 20
    initial_ids: Sequence[Sequence[Annotated[int, AtLeast(0)]]] | None = None
    seed: Seed = 0
    name: str = dataclasses.field(default='prompt', init=False)

    def __post_init__(self) -> None:
        if self.initial_ids is not None:  # hashable: the method is part of a static argument of jit
            object.__setattr__(self, 'initial_ids', tuple(tuple(ids) for ids in self.initial_ids))

    def intercept(self, next_fun, args, kwargs, context):
        model = context.module
        if not isinstance(model, PaLM) or context.method_name != 'transform':
            return next_fun(*args, **kwargs)
        x_BLD, positions_BL, mask, *rest = args
        P, B = self.length, x_BLD.shape[0]
        prompt_PD = (Embeddings(model.arch, P, name=self.name)() * model.arch.embedding_scale).astype(x_BLD.dtype)
        if not model.is_initializing() and model.has_variable('cache', 'stack'):
            # The prompt is in the cache already, and the text P positions later than its own count.
            return next_fun(x_BLD, positions_BL + P, mask, *rest)
        x_BLD = jnp.concatenate([jnp.broadcast_to(prompt_PD, (B, *prompt_PD.shape)), x_BLD], axis=1)
        prompt_BP = jnp.broadcast_to(jnp.arange(P), (positions_BL.shape[0], P))
        positions_BL = jnp.concatenate([prompt_BP, positions_BL + P], axis=1)

        def before(x_BL):
            return x_BL if x_BL is None else jnp.concatenate([jnp.repeat(x_BL[:, :1], P, axis=1), x_BL], axis=1)

        mask = mask.replace(segment_ids=before(mask.segment_ids), causal_attention=before(mask.causal_attention))
        return next_fun(x_BLD, positions_BL, mask, *rest)[:, P:]

    def init_from_base(self, siblings, params):
        """Start the prompt as the embeddings of tokens."""
        embedding_VD = jnp.asarray(siblings['embed']['embedding'])
        common = min(_COMMON, embedding_VD.shape[0])
        ids_P = jax.random.choice(jax.random.key(self.seed), common, (self.length,), replace=self.length > common)
        prompt_PD = embedding_VD[ids_P]
        for position, ids in enumerate((self.initial_ids or ())[: self.length]):
            prompt_PD = prompt_PD.at[position].set(embedding_VD[jnp.array(ids)].mean(axis=0))
        return params | {'embedding': prompt_PD.astype(params['embedding'].dtype)}


class Embeddings(nn.Module):
    """The embeddings of the prompt."""

    arch: Architecture
    length: int

    @nn.compact
    def __call__(self) -> jax.Array:
        """Return the embeddings [P, D]."""
        return new_param(
            self, 'embedding', nn.initializers.normal(1.0), (self.length, self.arch.d_model), ('prompt', 'embed')
        )
