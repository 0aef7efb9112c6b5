"""The metrics that a reporter names before training are those that it measures afterwards."""

import types

import numpy as np
import pytest

from palm_jax.labels.label_set import LabelSet
from palm_jax.labels.number import Number
from palm_jax.labels.single_label import SingleLabel
from palm_jax.reports import labels, tags
from palm_jax.reports.denoising import DenoisingReporter
from palm_jax.reports.generation import GenerationReporter
from palm_jax.reports.language_model import TextReporter, measurements

TEXTS = ['t0', 't1', 't2', 't3']
CLASSES = np.array([0, 1, 1, 0])


@pytest.mark.parametrize(
    'kind, names, encoded',
    [
        (SingleLabel(), ('a', 'b', 'c'), CLASSES),
        (SingleLabel(), ('a', 'b'), CLASSES),
        (LabelSet(), ('a', 'b'), np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])),
        (Number(), (), np.array([0.0, 1.0, 2.0, 3.0])),
    ],
)
def test_heads(kind, names, encoded, recwarn):
    data = types.SimpleNamespace(labels=names, batch=lambda first, size: {'labels': encoded[first : first + size]})
    named = labels.HeadReporter(kind).metric_names(data)
    assert not recwarn.list
    scores = np.random.default_rng(0).normal(size=(4, kind.num_scores(len(names))))
    measured = labels.evaluate(kind, 0.5, names, TEXTS, scores, encoded).metrics
    assert {'loss', *named} == set(measured)


def test_taggers():
    sentence = types.SimpleNamespace(words=('Ann', 'left'), tags=('B-PER', 'O'))
    named = tags.TagReporter().metric_names(types.SimpleNamespace(validation_examples=[sentence]))
    assert set(named) == set(tags.measurements(0.5, [sentence], [['O', 'O']]).metrics) >= {'entity_f1'}


def test_texts():
    named = GenerationReporter(metrics=('bleu', 'squad')).metric_names(None)
    assert set(named) == {'perplexity', 'bleu', 'exact_match', 'f1'}
    assert {'loss', *TextReporter().metric_names(None)} == set(measurements(2.0, 1.5, {}, []).metrics)
    assert DenoisingReporter().metric_names(None) == ()
