"""What makes a text of a row, and the random choices that all makers share."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from palm_jax.api.trained_model import TrainedModel
from palm_jax.characters import check_characters
from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError
from palm_jax.inference.generate import Sampler
from palm_jax.training.initial_parameters import fingerprint


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Random choices, a function of the seed and of the numbers of the row and of the copy.

    Attributes:
      seed: random seed.
      temperature: divisor of the logits; 0 takes the most probable token.
    """

    seed: int = 0
    temperature: float = 0.9

    def rng(self, row: int, copy: int) -> np.random.Generator:
        """Return the source of the random choices for a row and a copy."""
        return np.random.default_rng((self.seed, copy, row))

    def sampler(self, model: TrainedModel, copy: int) -> Sampler:
        """Return how a model generates: as many tokens and stop strings as its run says, sampled at the temperature."""
        own = model.sampler
        seed = int(np.random.SeedSequence((self.seed, copy)).generate_state(1)[0])
        return Sampler(max_tokens=own.max_tokens, temperature=self.temperature, top_p=1.0, stop=own.stop, seed=seed)


class Maker(abc.ABC):
    """Makes texts of rows, many at a time.

    Attributes:
      name: name that the origin of the texts says.
    """

    name: str

    @property
    def is_random(self) -> bool:
        """Whether another copy may be another text."""
        return True

    @abc.abstractmethod
    def make(self, rows: Sequence[Row], texts: Sequence[str], copy: int, first: int) -> list[str]:
        """Return a text for each row; an empty one, or the row's own, where none could be made.

        Args:
          rows: rows of the table.
          texts: their texts.
          copy: number of the copy.
          first: number of the first row in the table.
        """

    @abc.abstractmethod
    def depends_on(self) -> object:
        """Return what the texts depend on besides the rows, as JSON: a model by content, a command by its text."""


def usable(text: str) -> str:
    """Return a text, or an empty one in the place of what is not text: models of bytes may write anything."""
    try:
        return check_characters(text, 'the text')
    except UserError:
        return ''


def of_run(model: TrainedModel) -> dict[str, object]:
    """Return what a model's predictions depend on, by content."""
    config = hashlib.sha256(model.config.read_bytes()).hexdigest()
    return {'params': fingerprint(model.params), 'vocabulary': model.data.vocabulary.fingerprint, 'config.gin': config}
