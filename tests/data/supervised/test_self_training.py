"""Texts that a teacher has labelled, as further training rows."""

import json

import pytest

from palm_jax.data.augmentation.aeda import AEDA
from palm_jax.data.augmentation.augmented import augment
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.data.supervised.self_training import TeacherLabels, WithTeacherLabels
from palm_jax.data.supervised.tagged_text import TaggedTable
from palm_jax.errors import UserError
from palm_jax.labels.label_set import LabelSet


@pytest.fixture
def made(tmp_path):
    """Writes a table and what a teacher predicts, and returns the table with it."""
    path = tmp_path / 'table.csv'
    path.write_text('text,label\n' + ''.join(f'the text {i},{"ab"[i % 2]}\n' for i in range(30)))

    def build(rows, threshold=0.9, name='teacher.jsonl', **options):
        (tmp_path / name).write_text(''.join(json.dumps(row) + '\n' for row in rows))
        return WithTeacherLabels(LabelledTable(str(path), **options), str(tmp_path / name), threshold)

    return build


ROWS = [
    {'text': 'one', 'label': 'a', 'probabilities': {'a': 0.95, 'b': 0.05}},
    {'text': 'two', 'label': 'a', 'probabilities': {'b': 0.9, 'a': 0.1}},
    {'text': 'three', 'label': '', 'probabilities': {'a': 0.6, 'b': 0.4}},
    {'text': 'one', 'label': 'a', 'probabilities': {'a': 1.0}},
    *({'text': f'the  text {i}', 'probabilities': {'b': 1.0}} for i in range(30)),
]


def test_texts_that_the_teacher_is_sure_of_follow_the_labelled_ones(made, caplog):
    caplog.set_level('INFO')
    source = made(ROWS)
    plain = source._source.examples('train')
    examples = source.examples('train')
    assert examples[: len(plain)] == plain and source.examples('validation') == source._source.examples('validation')
    assert [(e.text, e.label) for e in examples[len(plain) :]] == [('one', 'a'), ('two', 'b')]
    assert examples[-1].location.endswith('teacher.jsonl, line 2, labelled by a teacher')
    assert '2 of 34 texts have a class of at least 0.9, and are new; 50.0% of 2 known labels are right' in caplog.text
    wrappers = [TeacherLabels(source._files, 0.9)]
    data = LabelledText(augment(source._source, [AEDA()], wrappers=wrappers), {'inputs': 40}, 'bytes')
    assert data.num_sequences > len(examples) and data.labels == ('a', 'b')
    assert len(made(ROWS, threshold=1.0).examples('train')) == len(plain) + 1
    caplog.clear()
    assert made(ROWS[1:3], threshold=0.99, name='unsure.jsonl').examples('train') == plain
    assert 'nothing is added: lower --gin.SELF_TRAINING_THRESHOLD' in caplog.text


@pytest.mark.parametrize(
    ('row', 'message'),
    [
        ({'text': 'x', 'probabilities': {'c': 1.0}}, r"the teacher has a class 'c', which this task lacks"),
        ({'text': 'x', 'probabilities': {}}, 'must be an object of numbers from 0 to 1 by class'),
        ({'text': 'x'}, r"line 1: no column 'probabilities', so .* which palm-jax infer --gin_file"),
    ],
)
def test_files_of_another_form_are_refused(made, row, message):
    with pytest.raises(UserError, match=message):
        made([row], name=f'{len(message)}.jsonl').examples('train')


def test_what_does_not_fit_is_refused(made):
    with pytest.raises(UserError, match=r'Self-training needs one class per text.*REPLAY_PREDICTED=True'):
        made(ROWS, kind=LabelSet())
    with pytest.raises(UserError, match='Self-training needs one class per text'):
        augment(TaggedTable('table.conll'), wrappers=[TeacherLabels('teacher.jsonl')])
    with pytest.raises(UserError, match='TEACHER_FILES is not set'):
        WithTeacherLabels(made(ROWS)._source, None).examples('train')
