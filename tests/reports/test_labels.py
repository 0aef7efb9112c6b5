"""What is measured of heads: one class, several labels, or a number per text."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.labels.label_set import LabelSet
from palm_jax.labels.number import Number
from palm_jax.labels.single_label import SingleLabel
from palm_jax.metrics.text_baselines import Baseline
from palm_jax.partitioning import MeshLayout
from palm_jax.reports.labels import HeadReporter, evaluate
from palm_jax.training.evaluate import Evaluator
from palm_jax.training.head_losses import ClassLoss
from palm_jax.training.head_scores import metrics_and_scores
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


@pytest.mark.parametrize('kind', [SingleLabel(), LabelSet(), Number()])
def test_one_example_has_no_interval(kind):
    scores, label = np.array([[1.0, -1.0]]), {SingleLabel: np.array([0]), LabelSet: np.array([[1.0, 0.0]])}
    labels = label.get(type(kind), np.array([0.5]))
    measured = evaluate(kind, 0.4, ['a', 'b'], TEXTS[:1], scores, labels)
    assert not measured.intervals and '(95% interval n/a, 1 example)' in measured.lines[0]


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
    """Looks its scores up in its parameters, and counts how often it does."""

    calls = 0

    def apply(self, variables, tokens, *others, method, **settings):
        assert method == 'scores'
        self.calls += 1
        return variables['params'][tokens[:, 0]]


class Data:
    """Four examples in batches of three, the last of which is padded."""

    labels = ('a', 'b', 'c')
    validation_examples = tuple(
        types.SimpleNamespace(text=f't{i}', second_text='u' if i == 3 else None) for i in range(4)
    )
    num_validation_sequences = 4
    baselines = (Baseline('majority class', 'accuracy', 0.5),)
    passes = 0

    def validation_by_length(self, size):
        self.passes += 1
        for numbers in ([3, 1, 0], [2]):  # in another order than that of the examples
            rows = np.array(numbers + numbers[-1:] * (3 - len(numbers)), np.int32)
            tokens, weights = rows[:, None], (np.arange(3) < len(numbers)).astype(np.float32)
            segments = np.ones_like(tokens)
            batch = {'decoder_input_tokens': tokens, 'decoder_segment_ids': segments, 'labels': LABELS[rows]}
            yield np.array(numbers), batch | {'label_weights': weights}


def inputs_of(loss):
    """The input of a reporter, from a loss, with the model and the data that it reads."""
    model, data, mesh = Table(), Data(), MeshLayout().mesh(jax.devices()[:1])
    params = jnp.log(P)
    evaluator = Evaluator(
        data,
        3,
        mesh,
        lambda batch: loss(model, params, batch)[1],
        lambda batch: metrics_and_scores(loss, model, params, batch),
    )
    return types.SimpleNamespace(
        model=model, params=params, data=data, mesh=mesh, evaluate=evaluator.evaluate, score=evaluator.score
    )


def test_every_example_is_scored_once_in_its_place():
    scored = inputs_of(ClassLoss()).score()
    assert np.stack(scored.labels).tolist() == [0, 1, 1, 0]
    np.testing.assert_allclose(np.stack(scored.scores), np.log(P), rtol=1e-6)


def test_a_reporter_measures_in_one_pass_without_a_run(capfd):
    inputs = inputs_of(ClassLoss())
    measured = HeadReporter().measure(inputs)
    assert measured.metrics['loss'] == pytest.approx(-np.log(P[np.arange(4), LABELS]).mean())
    assert measured.metrics['accuracy'] == 0.5 and 'no better than a baseline' in measured.warnings[0]
    assert [row['text'] for row in measured.predictions] == ['t0', 't1', 't2', 't3 / u']
    assert inputs.data.passes == 1 and inputs.model.calls == 2  # one call for each batch
    assert '0/2 [' in capfd.readouterr().err  # the number of batches, from which the time left follows


def test_a_loss_that_computes_no_scores_has_them_computed_beside_it():
    loss = lambda model, params, batch: (0.0, {'loss': Ratio(1.0, 1.0)})  # noqa: E731
    inputs = inputs_of(loss)
    assert len(inputs.score().scores) == 4 and inputs.evaluate()['loss'].value() == 1.0 and inputs.data.passes == 1


def test_many_classes_have_a_table_of_confusions_instead_of_a_picture():
    count = 2500
    names, labels = [f'class {i}' for i in range(count)], np.arange(300)
    scores = np.eye(count)[np.where(labels < 3, 7, labels)]
    measured = evaluate(SingleLabel(), 0.4, names, [f't{i}' for i in labels], scores, labels)
    assert not measured.figures and measured.tables['Most confused classes'][1:] == [
        (f'class {i}', 'class 7', '1') for i in range(3)
    ]
