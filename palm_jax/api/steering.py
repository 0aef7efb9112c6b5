"""A trained model whose texts two others steer; see `inference.steering`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palm_jax.api.trained_model import TrainedModel
from palm_jax.errors import UserError
from palm_jax.inference.scoring import Likelihood, likelihoods
from palm_jax.inference.steering import SteeredModel
from palm_jax.predictors.generator import Generator


@dataclasses.dataclass(frozen=True)
class SteeredTrainedModel(TrainedModel):
    """A trained model that generates and scores texts with steered logits; the rest of it is that of the base.

    Attributes:
      expert: model that writes what is wanted; None for none.
      anti_expert: model that writes what is not wanted; None for none.
      strength: factor a of z + a·(z⁺ − z⁻).
      top_p: nucleus of the base, see `Steering`.
    """

    expert: TrainedModel | None = None
    anti_expert: TrainedModel | None = None
    strength: float = 2.0
    top_p: float = 1.0

    def unstacked(self, known: dict[tuple[int, ...], Any] | None = None) -> tuple[Any, Any]:
        """Return all models as one, and their parameters by name."""
        models, params = [], {}
        for name, part in self._parts.items():
            model, params[name] = TrainedModel.unstacked(part, known)
            models.append((name, model))
        return SteeredModel(tuple(models), self.strength, self.top_p), params

    @property
    def _parts(self) -> dict[str, TrainedModel]:
        parts = {'base': self, 'expert': self.expert, 'anti_expert': self.anti_expert}
        return {name: part for name, part in parts.items() if part is not None}

    def score(self, pairs: Sequence[tuple[Any, str]], batch_size: int = 32) -> list[Likelihood]:
        """Return the likelihood of continuations under the steered distribution; see `TrainedModel.score`."""
        predictor = self._generator('score')
        ids = [(predictor.prompt(self, given), predictor.target(self, text)) for given, text in pairs]
        return likelihoods(*self.for_decoding, ids, self.data.length, batch_size, self.data.vocabulary)

    def save(self, model_dir: str | Path, merged: Any = None) -> Path:
        """Refuse: the steered model is three.

        Raises:
          UserError: always.
        """
        raise UserError(f'A steered model is several and cannot be saved as one in {model_dir}: save them one by one.')


def steer(
    model: TrainedModel,
    expert: TrainedModel | None = None,
    anti_expert: TrainedModel | None = None,
    strength: float = 2.0,
    top_p: float = 1.0,
) -> SteeredTrainedModel:
    """Return a model whose logits are z + a·(z⁺ − z⁻), z⁺ those of an expert and z⁻ those of an anti-expert.

    Args:
      model: base, which generates text.
      expert: model that writes what is wanted; None takes the base.
      anti_expert: model that writes what is not wanted; None takes the base.
      strength: factor a.
      top_p: nucleus of the base, outside of which nothing is generated; 1 keeps every token.

    Raises:
      UserError: a model does not generate text or has another vocabulary, or there is neither expert.
    """
    others = {'expert': expert, 'anti-expert': anti_expert}
    if expert is None and anti_expert is None:
        raise UserError('Steering needs an expert or an anti-expert: a model of text that is wanted, or is not.')
    for name, part in {'base': model, **others}.items():
        if part is None:
            continue
        if not isinstance(part.predictor, Generator):
            raise UserError(
                f'Steering is for models that generate text; the {name} was trained {part.predictor.purpose}.'
            )
        same = part.data.vocabulary.fingerprint == model.data.vocabulary.fingerprint
        if not same or part.model.arch.vocab_size != model.model.arch.vocab_size:
            raise UserError(
                f'The {name} has another vocabulary than the base, so that their logits are about other tokens. '
                'Fine-tune both from the same base.'
            )
    given = {field.name: getattr(model, field.name) for field in dataclasses.fields(TrainedModel)}
    return SteeredTrainedModel(**given, expert=expert, anti_expert=anti_expert, strength=strength, top_p=top_p)
