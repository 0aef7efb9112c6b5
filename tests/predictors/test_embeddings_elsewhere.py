"""Programs about right answers, losses and words refuse a model of embeddings, which has none of them."""

from types import SimpleNamespace

import pytest

from palm_jax.errors import UserError
from palm_jax.fairness import language_models
from palm_jax.microscope import ranking
from palm_jax.predictors.embedding_predictor import EmbeddingPredictor
from palm_jax.probing import answers
from palm_jax.training.losses import LanguageModelLoss, has_row_losses
from palm_jax.training.simcse import SimCSELoss


def test_embeddings_are_refused_where_a_text_has_an_answer_or_a_loss():
    predictor, loss = EmbeddingPredictor(), SimCSELoss()
    data = SimpleNamespace(examples=lambda split: [])
    model = SimpleNamespace(predictor=predictor, data=data, run={'loss': loss})
    with pytest.raises(UserError, match='words contribute to a single number'):
        predictor.explainables(model, ['a'], [None])
    with pytest.raises(UserError, match='was trained to embed texts: there are none'):
        answers.cases(model, 'there are none.')
    with pytest.raises(UserError, match='labels or continues single texts; this one was trained to embed texts'):
        language_models.predict(model, ['a'], 4)
    with pytest.raises(UserError, match='a text alone has none by which it could be ranked'):
        ranking.losses(model, {}, False, 8)
    assert has_row_losses(LanguageModelLoss()) and not has_row_losses(loss)
