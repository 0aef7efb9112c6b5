"""Embeddings of texts: the features of the last block, pooled and normalized, for every kind of model."""

import numpy as np
import pytest

from palm_jax.errors import UserError
from tests.support.kinds import every_kind

TEXTS = ['I lost my card.', '', 'Where is my transfer?', '中文' * 3]


@pytest.mark.parametrize('kind', ['tags', 'classes'])
def test_an_embedding_is_the_pooled_features_of_the_text(micro, kind):
    model = every_kind(micro)[kind]
    found = model.embed(TEXTS, batch_size=2)
    assert found.shape == (4, model.model.arch.d_model) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    for text, vector in zip(TEXTS[:2], found[:2], strict=True):
        ids = np.array([[0, *model.data.vocabulary.encode(text)[: model.data.length - 2], 1]], np.int32)
        both = np.ones_like(ids) if getattr(model.data, 'bidirectional', False) else None
        h = model.model.apply({'params': model.params}, ids, None, None, both, method='features')
        h = np.asarray(h, np.float64)[0]
        expected = h.mean(axis=0)
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=2e-5)


def test_pooling_and_wrong_inputs(micro):
    model = every_kind(micro)['classes']
    first, last, mean = (model.embed(['one text'], pooling=pooling) for pooling in ('first', 'last', 'mean'))
    assert np.abs(first - last).max() > 1e-3 < np.abs(last - mean).max()
    np.testing.assert_array_equal(model.embed('one text'), mean)
    assert model.embed([]).shape == (0, model.model.arch.d_model)
    for given, message in (({'pooling': 'max'}, 'possible: last, first, mean'), ({}, 'Input 1 is 7')):
        with pytest.raises(UserError, match=message):
            model.embed(['a', 7], **given)


def test_what_is_cut_is_said(micro, caplog):
    model = every_kind(micro)['classes']
    cut = model.embed(['x' * 100, 'short'])
    assert '1 of 2 texts are longer than 16 tokens and are cut' in caplog.text
    np.testing.assert_array_equal(cut[:1], model.embed(['x' * 14]))
