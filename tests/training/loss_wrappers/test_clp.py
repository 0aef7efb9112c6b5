"""Counterfactual logit pairing: the loss against NumPy, and the texts that it pairs."""

import json

import jax
import numpy as np
import pytest

from palm_jax.data.supervised.counterfactuals import Counterfactuals, Substitutions
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.errors import UserError
from palm_jax.training.loss_wrappers.clp import CLP
from palm_jax.training.loss_wrappers.wrapper import wrap
from tests.support.wrapped import LOSSES, build, features, inputs_of, trained_for

SETS = [['he', 'she', 'they'], ['Father', 'mother'], ['older man', 'older woman']]


def with_counterfactuals(kind, copies=2):
    batch = features(kind)
    rng = np.random.default_rng(5)
    tokens = rng.integers(3, 60, (4, copies, batch['decoder_input_tokens'].shape[1])).astype(np.int32)
    segments = np.ones_like(tokens)
    segments[0, 0, 7:] = 0
    weights = np.array([[1, 1], [1, 0], [1, 1], [0, 0]], np.float32)
    return batch | {
        'counterfactual_tokens': tokens * segments, 'counterfactual_segment_ids': segments,
        'counterfactual_weights': weights,
    }  # fmt: skip


@pytest.mark.parametrize('kind', ['class', pytest.param('number', marks=pytest.mark.slow)])
def test_the_loss_is_that_of_the_paper(kind):
    model, _, params = build(kind, dropout_rate=0.0)
    batch, plain = with_counterfactuals(kind), features(kind)
    expected, _ = wrap(LOSSES[kind])(inputs_of(model, params, plain))
    value, metrics = jax.jit(lambda: wrap(LOSSES[kind], (CLP(weight=0.7),))(inputs_of(model, params, batch)))()
    scores = np.float64(LOSSES[kind].predict(model, params, plain).scores)
    gaps = np.zeros((4, 2))
    for k in range(2):
        of_copy = {
            'decoder_input_tokens': batch['counterfactual_tokens'][:, k],
            'decoder_segment_ids': batch['counterfactual_segment_ids'][:, k],
        }
        gaps[:, k] = np.abs(scores - np.float64(LOSSES[kind].predict(model, params, plain | of_copy).scores)).mean(-1)
    of_rows = [gaps[0].mean(), gaps[1, 0], 0.0, 0.0]  # the third row has no weight, the fourth no counterfactual
    assert sum(of_rows) > 1e-3
    assert float(value - expected) == pytest.approx(0.7 * sum(of_rows), rel=1e-3)
    assert metrics['counterfactual_gap'].value() == pytest.approx(sum(of_rows) / 2, rel=1e-3)


@pytest.mark.slow
def test_training_closes_the_gap():
    batch = with_counterfactuals('class')
    before = trained_for(1, 'class', (CLP(weight=20.0),), batch=batch, dropout_rate=0.0)[1]
    after = trained_for(12, 'class', (CLP(weight=20.0),), batch=batch, dropout_rate=0.0)[1]
    assert after['counterfactual_gap'].value() < 0.6 * before['counterfactual_gap'].value()


def test_words_take_the_place_of_others():
    found = Substitutions(SETS)
    assert found.replace('He and his FATHER met an older  man.', 1) == 'She and his MOTHER met an older woman.'
    assert found.replace('They saw her mother', 1) == 'He saw her Father' and found.most == 2
    assert found.replace('he', 2) == 'they' and found.replace('father', 2) == 'mother'
    assert found.replace('theory of the sheet', 1) == 'theory of the sheet'
    for wrong in ([['he']], [['he', 'He']], ['he'], [[1, 2]]):
        with pytest.raises(UserError, match='must be a list of sets of words'):
            Substitutions(wrong)


@pytest.fixture
def data(tmp_path):
    rows = ['he is here', 'no group', 'she and mother', 'they left'] * 6
    lines = [f'{text} {i},{"yes" if i % 4 else "no"}\n' for i, text in enumerate(rows)]
    (tmp_path / 'table.csv').write_text('text,label\n' + ''.join(lines))
    return LabelledText(LabelledTable(str(tmp_path / 'table.csv')), {'inputs': 24}, 'bytes')


def test_the_features_are_the_texts_of_other_groups(data):
    source = Counterfactuals(SETS, copies=3, lengths={'inputs': 24}, vocabulary='bytes')
    examples = data.examples('train')
    found = source.features(examples, data.table)
    vocabulary, count = data.vocabulary, 0
    for row, example in enumerate(examples):
        kinds = 2 if example.text[0] in 'ths' and 'group' not in example.text else 0
        assert found['counterfactual_weights'][row].tolist() == [1] * kinds + [0] * (3 - kinds)
        ends = found['counterfactual_segment_ids'][row].sum(-1)
        texts = [vocabulary.decode(found['counterfactual_tokens'][row, k, 1 : ends[k]]) for k in range(kinds)]
        number = example.text.split()[-1]
        if example.text.startswith('he '):
            assert texts == [f'she is here {number}', f'they is here {number}']
        count += kinds
    assert count > 20
    one = Counterfactuals(SETS, lengths={'inputs': 24}, vocabulary='bytes')
    again = [one.features(examples, data.table)['counterfactual_tokens'] for _ in range(2)]
    np.testing.assert_array_equal(*again)
    only = Counterfactuals(SETS, labels=['no'], lengths={'inputs': 24}, vocabulary='bytes')
    paired = only.features(examples, data.table)['counterfactual_weights'].any(axis=1)
    assert {e.label for e, is_paired in zip(examples, paired, strict=True) if is_paired} == {'no'}


def test_texts_grouped_by_length_are_paired_whole(data):
    source = Counterfactuals([['he', 'the whole family']], lengths={'inputs': 64}, vocabulary='bytes')
    grouped = LabelledText(data.table, {'inputs': 64}, 'bytes', group_by_length=2, further=[source])
    lengths = set()
    for first in range(0, grouped.num_sequences, 2):
        batch = grouped.batch(first, 2)
        tokens, segments = batch['counterfactual_tokens'], batch['counterfactual_segment_ids']
        assert tokens.shape == segments.shape and tokens.shape[-1] >= batch['decoder_input_tokens'].shape[1]
        ends = segments.sum(axis=-1)[batch['counterfactual_weights'] == 1]
        assert (tokens[batch['counterfactual_weights'] == 1][range(len(ends)), ends - 1] == 1).all()  # EOS: none is cut
        lengths.add(tokens.shape[-1])
    assert len(lengths) > 1 and 1 + len('the whole family is here 20') + 1 <= max(lengths) <= 64
    model, _, params = build('class')
    batch = {name: x % 60 if name.endswith('_tokens') else x for name, x in batch.items()}  # a small vocabulary
    value, _ = wrap(LOSSES['class'], (CLP(),))(inputs_of(model, params, batch))
    assert np.isfinite(value)


def test_what_cannot_be_paired_is_refused(data, tmp_path):
    (tmp_path / 'terms.json').write_text(json.dumps(SETS))
    assert Counterfactuals(str(tmp_path / 'terms.json'), lengths={'inputs': 24}, vocabulary='bytes').features(
        data.examples('train'), data.table
    )
    for options, message in (
        ({'terms': 'terms.txt'}, 'terms.txt. cannot be read'),
        ({'terms': [['x', 'y']]}, 'no training text has one of these words'),
        ({'labels': ['maybe']}, "there is no label 'maybe'"),
    ):
        with pytest.raises(UserError, match=message):
            Counterfactuals(lengths={'inputs': 24}, vocabulary='bytes', **options).features(
                data.examples('train'), data.table
            )
    model, _, params = build('class')
    with pytest.raises(UserError, match=r'include gin/methods/clp.gin'):
        wrap(LOSSES['class'], (CLP(),))(inputs_of(model, params, features('class')))
    with pytest.raises(UserError, match='CLP needs a class per text'):
        CLP().check(build('words')[0])
