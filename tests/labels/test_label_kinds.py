"""Each kind of label: encoded, decided, turned into JSON and evaluated."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from palm_jax.errors import UserError
from palm_jax.labels import single_label
from palm_jax.labels.label_set import LabelSet
from palm_jax.labels.number import Number
from palm_jax.labels.single_label import SingleLabel
from palm_jax.metrics import statistics

NAMES = ['a', 'b', 'c']
SCORES = np.random.default_rng(0).normal(size=(40, 3))


def test_a_single_label_is_an_id_and_a_softmax():
    kind = SingleLabel()
    assert kind.class_names('x|y') == ['x|y'] and kind.num_scores(3) == 3
    encoded = kind.encode('b', [1], 3)
    assert encoded == 1 and encoded.dtype == np.int32 and encoded.shape == () and kind.describe(encoded, NAMES) == 'b'
    prediction = kind.predict(SCORES[0], NAMES)
    assert list(prediction.values()) == sorted(prediction.values(), reverse=True)
    np.testing.assert_allclose([prediction[name] for name in NAMES], softmax(SCORES[0]))
    likeliest = NAMES[SCORES[0].argmax()]
    assert kind.to_json(prediction) == {'predicted': likeliest, 'probabilities': prediction}
    assert kind.to_response(prediction) == {'label': likeliest, 'labels': [likeliest], 'probabilities': prediction}


def test_a_label_set_is_ones_and_sigmoids():
    kind = LabelSet()
    assert kind.class_names('a | c') == ['a', 'c'] and kind.num_scores(3) == 3
    encoded = kind.encode('a | c', [0, 2], 3)
    assert encoded.tolist() == [1, 0, 1] and encoded.dtype == np.float32 and kind.describe(encoded, NAMES) == ['a', 'c']
    scores = np.array([2.0, -1.0, 0.5])
    prediction = kind.predict(scores, NAMES)
    np.testing.assert_allclose([prediction[name] for name in NAMES], expit(scores))
    assert kind.to_json(prediction)['predicted'] == ['a', 'c']
    assert kind.to_response(prediction)['label'] == 'a' and kind.to_response(prediction)['labels'] == ['a', 'c']
    nothing = kind.predict(np.array([-1.0, -2.0, -3.0]), NAMES)
    assert kind.to_json(nothing)['predicted'] == [] and kind.to_response(nothing)['label'] == 'a'


def test_a_number_is_itself():
    kind = Number()
    assert kind.class_names('7') == [] and kind.num_scores(0) == 1 and not kind.has_classes
    encoded = kind.encode(' -2.5', [], 0)
    assert encoded == np.float32(-2.5) and encoded.dtype == np.float32 and kind.describe(encoded, ()) == -2.5
    for wrong in ('seven', 'nan', 'inf', ''):
        with pytest.raises(UserError, match='is not a number'):
            kind.check(wrong)
    prediction = kind.predict(np.array([1.5], np.float32), ())
    assert kind.to_json(prediction) == {'predicted': 1.5}
    assert kind.to_response(prediction) == {'label': None, 'labels': [], 'probabilities': {}, 'number': 1.5}


def test_an_evaluation_counts_what_the_predictions_say():
    labels = np.random.default_rng(1).integers(0, 3, 40)
    evaluation = SingleLabel().evaluate(SCORES, labels, NAMES)
    right = [row['label'] == row['predicted'] for row in evaluation.predictions]
    assert next(iter(evaluation.metrics)) == 'accuracy' and evaluation.metrics['accuracy'] == np.mean(right)
    assert evaluation.interval[0] <= evaluation.metrics['accuracy'] <= evaluation.interval[1]
    np.testing.assert_array_equal(np.isfinite(evaluation.badness), np.logical_not(right))
    assert [row[0] for row in evaluation.tables['Classes']] == ['class', *NAMES] and evaluation.confusion is not None
    assert SingleLabel().evaluate(SCORES, labels, NAMES).text.count('\n') > 3

    sets = np.random.default_rng(2).integers(0, 2, (40, 3)).astype(np.float32)
    evaluation = LabelSet().evaluate(SCORES, sets, NAMES)
    right = [row['label'] == row['predicted'] for row in evaluation.predictions]
    assert evaluation.metrics['accuracy'] == np.mean(right) and evaluation.confusion is None
    np.testing.assert_array_equal(np.isfinite(evaluation.badness), np.logical_not(right))

    numbers = SCORES[:, 0] + 0.1
    evaluation = Number().evaluate(SCORES[:, :1], numbers, ())
    assert evaluation.metrics['pearson'] == pytest.approx(1) and next(iter(evaluation.metrics)) == 'pearson'
    np.testing.assert_allclose(evaluation.badness, 0.1)


def test_classes_without_held_out_examples_are_not_measured():
    labels, predicted, names = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), ['a', 'b', 'rare']
    assert single_label.table_of_classes(labels, predicted, names)[-1] == ('rare', 'n/a', 'n/a', 'n/a', '0')
    never_right = single_label.table_of_classes(np.array([0, 0], np.int32), np.array([1, 1]), names)
    assert [row[-1] for row in never_right] == ['examples', '2', '0', '0']
    shown = single_label.report_of_classes(labels, predicted, names)
    macro_f1 = statistics.of_classes(labels, predicted, np.eye(3)[predicted])['macro_f1']
    assert f'{macro_f1:.3f}' in next(line for line in shown.splitlines() if 'macro avg' in line)
    assert shown.endswith('not measured, for lack of held-out examples: rare\n')
