"""The likeliest tokens of a teacher: what is written, and where it is in the rows of a student."""

from pathlib import Path

import jax
import numpy as np
import pytest

from palm_jax.data.supervised import token_teacher
from palm_jax.data.supervised.conversations import PairTable
from palm_jax.data.supervised.text_to_text import TextToText
from palm_jax.data.supervised.token_teacher import TokenTeacher
from palm_jax.errors import UserError
from palm_jax.inference.top_tokens import top_tokens, top_tokens_of_rows
from palm_jax.peft.method import AdaptedModel
from tests.support.models import applied

K, T = 5, 1.5


@pytest.fixture
def table(tmp_path):
    path = tmp_path / 'pairs.csv'
    path.write_text('input,target\n' + ''.join(f'say {i},it is {i}\n' for i in range(20)))
    return str(path)


def data_of(table, lengths=(16, 12), **options):
    return TextToText(PairTable(table), dict(zip(('inputs', 'targets'), lengths, strict=True)), 'bytes', **options)


@pytest.fixture
def taught(micro, table, tmp_path):
    """A file of a random teacher, its features, and its log-probabilities [E, L, V]."""
    model, params = micro(vocab_size=259, num_layers=1)
    model, data = AdaptedModel(model), data_of(table)
    features = data.encode('train')
    ids, log_p = top_tokens(model, params, features, K, T)
    path = tmp_path / 'teacher.npz'
    token_teacher.write(path, features, ids, log_p, T, data.vocabulary)
    logits = applied(model, params, features['decoder_input_tokens'])
    return str(path), features, np.asarray(jax.nn.log_softmax(np.asarray(logits) / T))


def test_the_likeliest_tokens_of_every_target_are_in_their_place(taught, table):
    path, features, expected = taught
    student = data_of(table, (20, 14), further=[TokenTeacher(path, T)])  # another length of rows
    found = student.encode('train')
    weights, length = features['decoder_loss_weights'] != 0, expected.shape[1]
    np.testing.assert_array_equal(found['decoder_teacher_weights'][:, :length], weights)
    assert not found['decoder_teacher_weights'][:, length:].any()
    ids, log_p = (found[f'decoder_teacher_{name}'][:, :length][weights] for name in ('ids', 'log_p'))
    np.testing.assert_array_equal(ids, np.argsort(-expected[weights], axis=-1, kind='stable')[:, :K])
    np.testing.assert_allclose(log_p, -np.sort(-expected[weights], axis=-1)[:, :K], rtol=1e-4, atol=1e-5)
    assert 'decoder_teacher_ids' not in student.encode('validation')
    assert student.batch(0, 4)['decoder_teacher_ids'].shape == (4, 34, K)


def test_rows_that_are_read_by_length_are_written_in_their_order(micro, tmp_path):
    (tmp_path / 'pairs.csv').write_text(
        'input,target\n' + ''.join(f'{"a" * (i % 9)}b,{"c" * (i % 7)}d\n' for i in range(40))
    )
    model, params = micro(vocab_size=259, num_layers=1)
    model, data = AdaptedModel(model), data_of(str(tmp_path / 'pairs.csv'))
    features = data.encode('train')
    batches = list(data.by_length(features, 2))
    assert len({x['decoder_input_tokens'].shape for _, x in batches}) > 1
    targets = np.count_nonzero(features['decoder_loss_weights'], axis=1)
    ids, log_p = top_tokens_of_rows(model, params, batches, targets, K, T)
    expected_ids, expected_log_p = top_tokens(model, params, features, K, T)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(log_p, expected_log_p, atol=1e-5)


def test_rows_that_the_teacher_has_not_read_have_no_weight(taught, tmp_path, caplog):
    path, features, _ = taught
    other = tmp_path / 'other.csv'
    other.write_text((tmp_path / 'pairs.csv').read_text() + ''.join(f'new {i},x {i}\n' for i in range(20)))
    held_out = str(tmp_path / 'pairs.csv')
    data = TextToText(
        PairTable(str(other), held_out), {'inputs': 16, 'targets': 12}, 'bytes', further=[TokenTeacher(path, T)]
    )
    weights = data.encode('train')['decoder_teacher_weights']
    assert weights.sum() == (features['decoder_loss_weights'] != 0).sum() and not weights[-20:].any()
    assert 'of the training rows have no prediction of the teacher' in caplog.text


def test_what_does_not_fit_is_refused(taught, table, tmp_path):
    path, features, _ = taught
    vocabulary = data_of(table).vocabulary

    def refused(teacher, features=features, vocabulary=vocabulary):
        with pytest.raises(UserError) as error:
            teacher.features(features, vocabulary)
        return str(error.value)

    assert '--gin.DISTIL_TEMPERATURE=1.5' in refused(TokenTeacher(path, 2.0))
    assert 'TEACHER_FILE is not set' in refused(TokenTeacher())
    assert 'cannot be read' in refused(TokenTeacher(table, T))
    content, damaged = Path(path).read_bytes(), tmp_path / 'damaged.npz'
    zeros = content[:200] + bytes(50) + content[250:]
    for hurt in (b'', content[:9], content[: len(content) // 2], content[:-30], zeros):
        damaged.write_bytes(hurt)
        assert 'cannot be read: is it what palm-jax teach wrote?' in refused(TokenTeacher(str(damaged), T))
    np.savez(damaged, keys=np.zeros(3))
    assert 'cannot be read' in refused(TokenTeacher(str(damaged), T))
    assert 'PACK' in refused(TokenTeacher(path, T), features | {'decoder_segment_ids': 0})
    moved = features | {'decoder_target_tokens': features['decoder_target_tokens'] + 1}
    assert 'has none of the training rows' in refused(TokenTeacher(path, T), moved)

    class Other:
        fingerprint = 'another'

    assert 'another vocabulary' in refused(TokenTeacher(path, T), vocabulary=Other())
