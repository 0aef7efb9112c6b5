"""Texts that a run generates for the columns of a row: for its label, or in other words."""

from __future__ import annotations

import dataclasses
from typing import Any

from palm_jax.api.trained_model import TrainedModel
from palm_jax.errors import UserError
from palm_jax.predictors.text_to_text_predictor import TextToTextPredictor
from palm_jax.synthesis.maker import Maker, Sampling, of_run


@dataclasses.dataclass(frozen=True)
class Generation(Maker):
    """Generates texts by a run from text to text, whose INPUT_TEMPLATE names the columns of the table.

    With `{label}` it is generation conditioned on the label (Anaby-Tavor et al., arXiv 1911.03118), with `{text}` a
    paraphrase.

    Attributes:
      model: model of the run.
      sampling: random choices.
    """

    model: TrainedModel
    sampling: Sampling = Sampling()

    name = 'generation'

    def __post_init__(self) -> None:
        predictor = self.model.predictor
        if not isinstance(predictor, TextToTextPredictor):
            raise UserError(
                f'--generate={self.model.config.parent} was trained {predictor.purpose}; name a run from text to text, '
                'whose INPUT_TEMPLATE names columns of the table: --gin_file=gin/heads/text_to_text.gin.'
            )

    @property
    def is_random(self):
        """Whether the temperature is above 0."""
        return self.sampling.temperature > 0

    def make(self, rows, texts, copy, first):
        """Return what the model generates for each row."""
        del texts
        inputs: list[Any] = [self.model.predictor.parse(self.model, row) for row in rows]
        return self.model.generate(inputs, self.sampling.sampler(self.model, copy), first)

    def depends_on(self):
        """Return the run by content, and the random choices."""
        return of_run(self.model) | dataclasses.asdict(self.sampling)
