"""Distillation of self-attention relations (MiniLM, Wang et al., arXiv 2002.10957 and 2012.15828)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from palm_jax.bounds import AtLeast, AtMost, Count, NotEmpty, checked
from palm_jax.errors import UserError
from palm_jax.models.architecture import Architecture
from palm_jax.models.intermediates import WithIntermediates
from palm_jax.models.kernels.relations import regrouped, relation, relation_divergence
from palm_jax.models.masks import Mask
from palm_jax.training.loss_wrappers.adversary import is_token
from palm_jax.training.loss_wrappers.wrapper import Batch, LossWrapper
from palm_jax.training.losses import features_of
from palm_jax.training.metrics import Ratio
from palm_jax.training.teachers import Teacher

Relation = Literal['qk', 'qq', 'kk', 'vv']
_QKV = 'qkv'


@checked
@dataclasses.dataclass(frozen=True)
class MiniLM(LossWrapper):
    """(1 − α)·L + α·Σ_R KL(R_T ‖ R_S), R the relations between tokens in the last layer's self-attention.

    A relation is softmax(x·yᵀ / √K) over the tokens that a token may attend to: `qk`, of queries and keys, is the
    attention map itself; `qq`, `kk` and `vv` are of queries, keys or values among themselves. The divergence is a mean
    over heads and over the tokens of the batch. No width has to be that of the teacher. For `qk` both need the same
    number of query heads, which share their keys in multi-query attention. The others put all heads side by side and
    cut them into relation heads, so that one shared head of keys or values can be compared with many.

    Attributes:
      weight: share α of the relations; 0 trains without the teacher, 1 learns from its relations alone, as the paper.
      relations: relations that are learned; ('qk', 'vv') is 2002.10957, ('qq', 'kk', 'vv') is 2012.15828.
      relation_heads: number of relation heads of `qq`, `kk` and `vv`; None is as many as divide both models' heads:
        all of them where they have as many.
      teacher_layer: layer of the teacher, counted from 0; None is the last. Of a large teacher one of the upper middle
        may teach better.
      teacher: model that is learned from.
    """

    stage = 1
    weight: Annotated[float, AtLeast(0), AtMost(1)] = 0.5
    relations: Annotated[Sequence[Relation], NotEmpty()] = ('qk', 'vv')
    relation_heads: Count | None = None
    teacher_layer: Annotated[int, AtLeast(0)] | None = None
    teacher: Teacher = Teacher()

    def __post_init__(self) -> None:
        object.__setattr__(self, 'relations', tuple(self.relations))  # gin has lists; jit needs a hash

    def teachers(self):
        """Return the teacher; none at a weight of 0."""
        return (self.teacher,) if self.weight else ()

    def check(self, model):
        """Refuse a teacher whose heads do not fit."""
        if not self.weight:
            return
        ours, theirs = model.arch, self.teacher.model(model.arch).arch
        if self.teacher_layer is not None and self.teacher_layer >= theirs.num_layers:
            raise UserError(f'MINILM_TEACHER_LAYER = {self.teacher_layer}; the teacher has {theirs.num_layers} layers.')
        if 'qk' in self.relations and ours.num_heads != theirs.num_heads:
            raise UserError(
                f"MINILM_RELATIONS: 'qk' compares attention maps head by head, and the teacher has {theirs.num_heads} "
                f"query heads, this model {ours.num_heads}. Take --gin.MINILM_RELATIONS=\"['qq', 'kk', 'vv']\"."
            )
        for pair in self.relations:
            if pair[0] == pair[1]:
                self._num_heads(pair[0], ours, theirs)

    def __call__(self, loss, inputs):
        """Return the loss; the metric `relation_divergence` is the mean Σ_R KL(R_T ‖ R_S) per token."""
        if not self.weight:
            return loss(inputs)
        student = WithIntermediates(inputs.model.clone(frozen_layers=0))
        teacher = WithIntermediates(self.teacher.model(student.arch))
        value, metrics = loss.of_prediction(loss.predict(inputs.replace(model=student)), inputs)
        features_of(teacher, inputs.teachers[self.teacher.path], inputs.batch)
        total, count = self._divergence(student, teacher, inputs.batch)
        divergence = self.weight * total / jnp.maximum(count, 1.0) * metrics['loss'].count
        value = divergence if self.weight == 1 else (1 - self.weight) * value + divergence
        return value, metrics | {'relation_divergence': Ratio(total, count)}

    def _divergence(
        self, student: WithIntermediates, teacher: WithIntermediates, batch: Batch
    ) -> tuple[jax.Array, jax.Array]:
        """Return the sum of KL over tokens and relations, and the number of tokens."""
        weights_BL = is_token(batch).astype(jnp.float32)
        length, archs = weights_BL.shape[1], (teacher.arch, student.arch)
        mask = Mask(batch.get('decoder_segment_ids'), batch.get('decoder_causal_attention'))
        allowed_BLM = mask.allowed(length)
        ours = student.of_attention(-1)
        theirs = jax.lax.stop_gradient(teacher.of_attention(-1 if self.teacher_layer is None else self.teacher_layer))
        # The tokens of a soft prompt or a prefix come first, and are none of the text.
        both = [dict(zip(_QKV, (x[:, -length:] for x in found), strict=True)) for found in (theirs, ours)]
        total = jnp.float32(0)
        for pair in self.relations:
            log_p, log_q = (relation(*self._sides(pair[0], pair[1], arrays, *archs), allowed_BLM) for arrays in both)
            total += (weights_BL * relation_divergence(log_p, log_q)).sum()
        return total, weights_BL.sum()

    def _sides(self, first: str, second: str, arrays: dict[str, Any], *archs: Architecture) -> tuple[Any, Any]:
        """Return both sides of a relation by head."""
        if first != second:
            q_BLHK, k_BLGK = arrays[first], arrays[second]
            return q_BLHK, jnp.repeat(k_BLGK, q_BLHK.shape[2] // k_BLGK.shape[2], axis=2)
        x_BLRK = regrouped(arrays[first], self._num_heads(first, *archs))
        return x_BLRK, x_BLRK

    def _num_heads(self, name: str, *archs: Architecture) -> int:
        """Return the number of relation heads of queries, keys or values.

        Raises:
          UserError: it does not divide the sizes of both models.
        """
        heads = [arch.num_heads if name == 'q' else arch.num_kv_heads for arch in archs]
        if self.relation_heads is None:
            return math.gcd(*heads)
        common = math.gcd(*(count * arch.head_dim for count, arch in zip(heads, archs, strict=True)))
        if common % self.relation_heads:
            possible = [n for n in range(1, common + 1) if common % n == 0]
            raise UserError(
                f'MINILM_RELATION_HEADS = {self.relation_heads} does not divide the {name} of teacher and student into '
                f'equal parts; {", ".join(map(str, possible))} do.'
            )
        return self.relation_heads
