"""TransE beside the loss of a task (Bordes et al. 2013; jointly, as in KEPLER, Wang et al., arXiv 1911.06136)."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from palm_jax.bounds import Above, AtLeast, checked
from palm_jax.errors import UserError
from palm_jax.models.heads import pool
from palm_jax.models.model import Model
from palm_jax.training.loss_wrappers.wrapper import LossWrapper
from palm_jax.training.losses import features_of
from palm_jax.training.metrics import Ratio

_TINY = 1e-12
Norm = Literal[1, 2]


def entity_vectors(
    model: Model, params: Any, batch: dict[str, jax.Array], dropout_rng: jax.Array | None = None
) -> jax.Array:
    """Return the vectors of entities from their names, float32 [N, D] of length 1: the mean of the model's features.

    Args:
      model: model with its methods.
      params: all its parameters.
      batch: `decoder_input_tokens` and `decoder_segment_ids` of N names.
      dropout_rng: key of the dropout masks; None disables dropout.
    """
    h_NLD = features_of(model, params, batch, dropout_rng).astype(jnp.float32)
    h_ND = pool(h_NLD, batch['decoder_segment_ids'], 'mean')
    return h_ND / jnp.sqrt(jnp.square(h_ND).sum(axis=-1, keepdims=True) + _TINY)


def distance(head: jax.Array, relation: jax.Array, tail: jax.Array, norm: Norm) -> jax.Array:
    """Return d(h + r, t), the length of h + r − t over the last axis."""
    difference = head + relation - tail
    if norm == 1:
        return jnp.abs(difference).sum(axis=-1)
    return jnp.sqrt(jnp.square(difference).sum(axis=-1) + _TINY)


@checked
@dataclasses.dataclass(frozen=True)
class TransE(LossWrapper):
    """L + λ·(mean over triples of [γ + d(h + r, t) − d(h' + r, t')]₊).

    h and t are vectors of entities, which the model makes of their names in a pass of its own: the mean of its
    features, divided by its length. So knowledge reaches whatever the run trains, also with LoRA, and an entity that no
    triple has has a vector, too. r is a vector of its own, see `peft.relations`. h' or t' is an entity at random, so
    that the triple is none of the known ones. For the triples of a batch see `data.supervised.triple_rows`.

    Attributes:
      weight: weight λ; 0 trains without triples.
      margin: margin γ.
      norm: 1 or 2, the norm of the distance d.
    """

    stage: ClassVar[int] = 3
    weight: Annotated[float, AtLeast(0)] = 1.0
    margin: Annotated[float, Above(0)] = 1.0
    norm: Norm = 2

    def __call__(self, loss, inputs):
        """Return the loss; the metric `transe_loss` is the mean over triples."""
        triples = {name: x for name, x in inputs.batch.items() if name.startswith('triple_')}
        task = inputs.replace(batch={name: x for name, x in inputs.batch.items() if name not in triples})
        if not self.weight:
            return loss(task)
        if not triples or 'relations' not in inputs.params:
            raise UserError(
                'TransE needs triples in the batch, and vectors of relations: include gin/methods/transe.gin.'
            )
        value, metrics = loss(task)
        tokens_BK3L = triples['triple_tokens']
        flat = {
            f'decoder_{to}': triples[f'triple_{of}'].reshape(-1, tokens_BK3L.shape[-1])
            for to, of in (('input_tokens', 'tokens'), ('segment_ids', 'segment_ids'))
        }
        if 'decoder_causal_attention' in inputs.batch:
            flat['decoder_causal_attention'] = flat['decoder_segment_ids']
        dropout_rng = None if inputs.dropout_rng is None else jax.random.fold_in(inputs.rng, 3)
        vectors_N3D = entity_vectors(inputs.model, inputs.params, flat, dropout_rng).reshape(
            -1, 3, inputs.model.arch.d_model
        )
        relation_ND = inputs.params['relations']['embedding'][triples['triple_relations'].reshape(-1)]
        of_each_N = self.of_vectors(vectors_N3D, relation_ND, triples['triple_corrupts_tail'].reshape(-1))
        value = value + self.weight * metrics['loss'].count * of_each_N.mean()
        return value, metrics | {'transe_loss': Ratio(of_each_N.sum(), jnp.float32(of_each_N.size))}

    def of_vectors(self, vectors_N3D: jax.Array, relation_ND: jax.Array, corrupts_tail_N: jax.Array) -> jax.Array:
        """Return the loss of each of N triples.

        Args:
          vectors_N3D: vectors of head, tail and the entity that replaces one of them.
          relation_ND: vectors of the relations.
          corrupts_tail_N: whether the tail is replaced; otherwise the head is.
        """
        head, tail, other = (vectors_N3D[:, i] for i in range(3))
        is_tail = (corrupts_tail_N > 0)[:, None]
        right = distance(head, relation_ND, tail, self.norm)
        wrong = distance(jnp.where(is_tail, head, other), relation_ND, jnp.where(is_tail, other, tail), self.norm)
        return jax.nn.relu(self.margin + right - wrong)
