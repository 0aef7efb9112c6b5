"""Predictions of a teacher as features of the training texts."""

import json

import numpy as np
import pytest
import scipy.special

from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.data.supervised.teacher import TeacherPredictions
from palm_jax.errors import UserError
from palm_jax.labels.label_set import LabelSet

NAMES = ('a', 'b', 'c')


@pytest.fixture
def made(tmp_path):
    """Writes a table and what a teacher predicts, and returns their data."""
    path = tmp_path / 'table.csv'
    path.write_text('text,label\n' + ''.join(f'text {i},{NAMES[i % 3]}\n' for i in range(30)))

    def build(rows, name='teacher.jsonl', **options):
        (tmp_path / name).write_text(''.join(json.dumps(row) + '\n' for row in rows))
        teacher = TeacherPredictions(str(tmp_path / name))
        return LabelledText(LabelledTable(str(path), **options), {'inputs': 20}, 'bytes', further=[teacher])

    return build


def test_probabilities_are_those_of_the_file(made, caplog):
    p = np.random.default_rng(0).dirichlet(np.ones(3), 20)
    data = made(
        [{'text': f'text {i}', 'probabilities': dict(zip(NAMES, row, strict=True))} for i, row in enumerate(p.tolist())]
    )
    features = data.encode('train')
    number = [int(example.text.split()[1]) for example in data.examples('train')]
    has = np.array(number) < 20
    np.testing.assert_array_equal(features['teacher_weights'], has)
    expected = p[[i for i in number if i < 20]]
    np.testing.assert_allclose(
        scipy.special.softmax(features['teacher_scores'][has], axis=-1), expected, rtol=1e-4, atol=1e-6
    )
    assert 'of the training texts have no prediction of the teacher' in caplog.text
    assert 'teacher_scores' not in data.encode('validation') and data.batch(0, 4)['teacher_scores'].shape == (4, 3)


def test_what_is_left_of_1_is_shared(made):
    data = made([{'text': f'text {i}', 'probabilities': {'b': 0.8}} for i in range(30)])
    scores = data.encode('train')['teacher_scores']
    np.testing.assert_allclose(scipy.special.softmax(scores[0]), [0.1, 0.8, 0.1], rtol=1e-5)
    several = made(
        [{'text': f'text {i}', 'probabilities': {'a': 0.9, 'b': 0.8}} for i in range(30)], 'b.jsonl', kind=LabelSet()
    )
    scores = several.encode('train')['teacher_scores']
    np.testing.assert_allclose(scipy.special.expit(scores[0]), [0.9, 0.8, 0], atol=2e-6)


@pytest.mark.parametrize(
    ('row', 'message'),
    [
        ({'text': 'text 1', 'probabilities': {'d': 1.0}}, r"the teacher has a class 'd', which this task lacks"),
        ({'text': 'text 1', 'probabilities': {'a': 3}}, 'must be an object of numbers from 0 to 1 by class'),
        ({'text': 'text 1', 'probabilities': [1, 2]}, 'must be an object of numbers from 0 to 1 by class'),
        ({'text': 'text 1', 'predicted': 'a'}, "no column 'probabilities'"),
        ({'text': 'other', 'probabilities': {'a': 1.0}}, 'has none of the training texts'),
    ],
)
def test_files_of_another_form_are_refused(made, row, message):
    name = f'wrong_{abs(hash(message + str(row)))}.jsonl'
    with pytest.raises(UserError, match=message):
        made([row], name).encode('train')


def test_a_teacher_that_is_not_named_is_asked_for():
    with pytest.raises(UserError, match='TEACHER_FILES is not set'):
        TeacherPredictions().features([], LabelledTable(None))
