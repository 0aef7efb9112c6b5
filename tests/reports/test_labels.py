"""What is measured of heads: one class, several labels, or a number per text."""

import types

import jax
import numpy as np
import pytest

from palm_jax.labels.label_set import LabelSet
from palm_jax.labels.number import Number
from palm_jax.labels.single_label import SingleLabel
from palm_jax.partitioning import MeshLayout
from palm_jax.reports.labels import HeadReporter, evaluate, held_out_scores
from palm_jax.training.metrics import Ratio

TEXTS = ['t0', 't1', 't2', 't3']


def test_classes():
    scores = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]))
    measured = evaluate(SingleLabel(), 0.4, ['a', 'b', 'c'], TEXTS, scores, np.array([0, 1, 1, 0]))
    assert list(measured.metrics)[:2] == ['loss', 'accuracy'] and measured.metrics['accuracy'] == 0.5
    low, high = measured.intervals['accuracy']
    assert low <= 0.5 <= high
    first = measured.predictions[0]
    assert (first['text'], first['label'], first['predicted']) == ('t0', 'a', 'a')
    assert first['probabilities'] == {'a': 0.7, 'b': 0.2, 'c': 0.1}
    assert measured.tables['Classes'][1:] == [
        ('a', '0.500', '0.500', '0.500', '2'),
        ('b', '1.000', '0.500', '0.667', '2'),
        ('c', '0.000', '0.000', '0.000', '0'),
    ]
    # The less likely the true class, the worse.
    assert [row[0] for row in measured.tables['The worst errors'][1:]] == ['t3', 't2']
    assert list(measured.figures) == ['confusion.png'] and 'precision' in measured.text


def test_label_sets_are_correct_as_a_whole():
    scores = np.array([[1.0, -1.0], [2.0, 2.0], [-1.0, -1.0], [-3.0, 1.0]])
    labels = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    measured = evaluate(LabelSet(), 0.4, ['a', 'b'], TEXTS, scores, labels)
    assert measured.metrics['accuracy'] == 0.5
    assert measured.predictions[1]['predicted'] == ['a', 'b'] and measured.predictions[2]['predicted'] == []
    assert [row[0] for row in measured.tables['The worst errors'][1:]] == ['t3', 't1']


def test_numbers():
    labels, predicted = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.5, 2.0, 2.0])
    measured = evaluate(Number(), 0.4, [], TEXTS, predicted[:, None], labels)
    assert measured.metrics['pearson'] == pytest.approx(np.corrcoef(labels, predicted)[0, 1])
    assert measured.metrics['absolute_error'] == pytest.approx(1.5 / 4)
    assert 'pearson' in measured.intervals
    assert [row[0] for row in measured.tables['The worst errors'][1:]] == ['t3', 't1', 't0', 't2']


P = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
LABELS = np.array([0, 1, 1, 0])


class Table:
    """Looks its scores up in its parameters."""

    def apply(self, variables, tokens, *others, method, **settings):
        assert method == 'scores'
        return variables['params'][tokens[:, 0]]


class Data:
    """Four examples in batches of three, the last of which is padded."""

    labels = ('a', 'b', 'c')
    validation_examples = tuple(
        types.SimpleNamespace(text=f't{i}', second_text='u' if i == 3 else None) for i in range(4)
    )

    def validation(self, size):
        for rows in ([0, 1, 2], [3, 3, 3]):
            tokens = np.array(rows, np.int32)[:, None]
            yield {'decoder_input_tokens': tokens, 'decoder_segment_ids': np.ones_like(tokens), 'labels': LABELS[rows]}


@pytest.fixture
def inputs():
    return types.SimpleNamespace(
        model=Table(),
        params=np.log(P),
        data=Data(),
        mesh=MeshLayout().mesh(jax.devices()[:1]),
        batch_size=3,
        evaluate=lambda: {'loss': Ratio(2.0, 4.0)},
    )


def test_padding_is_not_scored(inputs):
    scores, labels = held_out_scores(inputs)
    assert [len(batch) for batch in scores] == [3, 1] and labels == LABELS.tolist()
    np.testing.assert_allclose(np.concatenate(scores), np.log(P), rtol=1e-6)


def test_a_reporter_measures_without_a_run(inputs):
    measured = HeadReporter().measure(inputs)
    assert measured.metrics['loss'] == 0.5 and measured.metrics['accuracy'] == 0.5
    assert [row['text'] for row in measured.predictions] == ['t0', 't1', 't2', 't3 / u']
