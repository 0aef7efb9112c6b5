"""Likelihoods of whole texts and of answers under a model that generates text, and predictions for templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from palm_jax.errors import UserError
from palm_jax.fairness.bbq import Question
from palm_jax.predictors.generator import Generator
from palm_jax.predictors.label_predictor import LabelPredictor
from palm_jax.predictors.language_model_predictor import LanguageModelPredictor
from palm_jax.predictors.predictor import purpose_of

_CHUNK = 32  # batches between two steps of the progress bar


def is_language_model(model: Any) -> bool:
    """Return whether a model was trained on text alone, so that whole texts have a likelihood."""
    return isinstance(model.predictor, LanguageModelPredictor)


def log_likelihoods(model: Any, texts: Sequence[str], batch_size: int) -> list[float]:
    """Return the log-likelihood of whole texts in nats.

    Args:
      model: trained model, an `api.TrainedModel`.
      texts: texts.
      batch_size: texts per forward pass.

    Raises:
      UserError: the model was not trained on text alone, or a text does not fit into its context.
    """
    if not is_language_model(model):
        raise UserError(
            f'Likelihoods of whole texts need a language model; this model was trained {model.predictor.purpose}.'
        )
    _check_lengths(model, [('', text) for text in texts])
    return _totals(model, [('', text) for text in texts], batch_size)


def answer(model: Any, questions: Sequence[Question], batch_size: int) -> list[int]:
    """Return for each question the number of the answer with the largest likelihood.

    Args:
      model: trained model, an `api.TrainedModel`.
      questions: questions.
      batch_size: answers per forward pass.

    Raises:
      UserError: the model does not generate text, or a question does not fit into its context.
    """
    if not isinstance(model.predictor, Generator):
        raise UserError(f'--bbq needs a model that generates text; this one was trained {model.predictor.purpose}.')
    pairs = [(q.prompt, f' {text}') for q in questions for text in q.answers]
    _check_lengths(model, pairs)
    return np.reshape(_totals(model, pairs, batch_size), (-1, 3)).argmax(axis=1).tolist()


def predict(model: Any, texts: Sequence[str], batch_size: int) -> list[Mapping[str, Any]]:
    """Return what a model predicts for texts: `predicted` and, of classes, `probabilities`; see `Predictor.to_json`.

    Raises:
      UserError: the model does not label or continue texts, or it reads pairs of them.
    """
    predictor = model.predictor
    if not isinstance(predictor, LabelPredictor | Generator) or predictor.reads_pairs(model):
        raise UserError(
            '--templates needs a model that labels or continues single texts; this one was trained '
            f'{purpose_of(model)}.'
        )
    found: list[Mapping[str, Any]] = []
    step = batch_size * _CHUNK
    for first in tqdm(range(0, len(texts), step), desc='templates', unit=' chunks', leave=False):
        predictions = model.predict(texts[first : first + step], batch_size=batch_size, first=first)
        found += [predictor.to_json(prediction) for prediction in predictions]
    return found


def _totals(model: Any, pairs: Sequence[tuple[str, str]], batch_size: int) -> list[float]:
    return [likelihood.total for likelihood in model.score(pairs, batch_size)]


def _check_lengths(model: Any, pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse texts whose beginning the model would not see."""
    predictor, length = model.predictor, model.data.length
    for given, text in pairs:
        count = len(predictor.prompt(model, given)) + len(predictor.target(model, text))
        if count > length + 1:
            raise UserError(
                f'{(given or text)[:60]!r} ... has {count} tokens; the context of this model is {length}. Take a model '
                'with a longer context.'
            )
