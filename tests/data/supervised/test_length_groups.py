"""Batches of texts of similar length: the same examples, less padding."""

import itertools

import jax
import numpy as np
import pytest

from palm_jax.data.supervised.conversations import PairTable
from palm_jax.data.supervised.examples import Examples, is_token
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.data.supervised.length_groups import LengthGroups, group_size, one_pass, padded_lengths
from palm_jax.data.supervised.tagged_text import TaggedTable, TaggedText
from palm_jax.data.supervised.text_to_text import TextToText
from palm_jax.errors import UserError
from palm_jax.models.heads import Head
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.training.head_losses import ClassLoss
from palm_jax.training.losses import LanguageModelLoss
from tests.support.architectures import MICRO
from tests.support.models import initial

E, L, GROUP = 256, 32, 4  # two windows of 32 groups are an epoch of 256


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, L + 1, E)
    tokens = np.where(np.arange(L) < lengths[:, None], rng.integers(1, 50, (E, L)), 0).astype(np.int32)
    return {'decoder_target_tokens': tokens, 'labels': np.arange(E), 'scores': rng.normal(size=(E, L))}


def grouped(features, seed=0, group=GROUP, rows=None):
    return LengthGroups(features, seed, rows, group, {'decoder_target_tokens': 1})


def test_an_epoch_has_every_example_once_and_little_padding(features):
    data, plain = grouped(features), Examples(features, 0)
    batches = [data.batch(first, GROUP) for first in range(0, 2 * E, GROUP)]
    for epoch in (batches[: E // GROUP], batches[E // GROUP :]):
        assert sorted(np.concatenate([b['labels'] for b in epoch])) == list(range(E))
    positions = sum(b['decoder_target_tokens'].size for b in batches)
    least = sum(np.count_nonzero(b['decoder_target_tokens']) for b in batches)
    assert positions < 1.2 * least < 2 * E * L * 0.75  # of whole rows
    assert len({b['decoder_target_tokens'].shape[1] for b in batches}) == 5
    lengths = [b['decoder_target_tokens'].shape[1] for b in batches]
    assert lengths != sorted(lengths)  # long and short come mixed
    assert sorted(plain.batch(0, E)['labels']) == list(range(E))


def test_nothing_but_padding_is_cut_and_other_features_are_whole(features):
    data = grouped(features)
    for first in range(0, E, GROUP):
        batch = data.batch(first, GROUP)
        rows, tokens = batch['labels'], batch['decoder_target_tokens']
        padded = np.pad(tokens, [(0, 0), (0, L - tokens.shape[1])])
        np.testing.assert_array_equal(padded, features['decoder_target_tokens'][rows])
        np.testing.assert_array_equal(batch['scores'], features['scores'][rows])


def test_a_batch_is_a_function_of_its_number_and_the_seed(features):
    data, late = grouped(features), grouped(features)
    before = [data.batch(first, GROUP) for first in range(0, E, GROUP)]
    again = late.batch(40 * GROUP, GROUP)  # as after a restart
    for name, values in before[40].items():
        np.testing.assert_array_equal(values, again[name])
        np.testing.assert_array_equal(values[2:], late.batch(40 * GROUP + 2, 2)[name])  # as another process reads it
    other = grouped(features, seed=1).batch(40 * GROUP, GROUP)
    assert list(other['labels']) != list(again['labels'])


def test_drawn_rows_come_as_often_as_they_are_drawn(features):
    rows = [0] * 100 + [1] * 28
    seen = np.concatenate([grouped(features, rows=rows).batch(i, GROUP)['labels'] for i in range(0, 128, GROUP)])
    assert np.bincount(seen).tolist() == [100, 28]


def test_rows_of_several_groups_have_the_length_of_the_longest(features):
    data = grouped(features)
    batches = [data.batch(first, GROUP) for first in range(0, 3 * GROUP, GROUP)]
    together = data.batch(2, 2 * GROUP)
    tokens = [
        np.pad(b['decoder_target_tokens'], [(0, 0), (0, L)])[:, : together['decoder_target_tokens'].shape[1]]
        for b in batches
    ]
    np.testing.assert_array_equal(together['decoder_target_tokens'], np.concatenate(tokens)[2 : 2 + 2 * GROUP])
    np.testing.assert_array_equal(together['labels'], np.concatenate([b['labels'] for b in batches])[2 : 2 + 2 * GROUP])


def test_few_groups_have_few_lengths(features):
    few = {name: values[: 8 * GROUP] for name, values in features.items()}
    batches = [grouped(few).batch(first, GROUP)['decoder_target_tokens'] for first in range(0, E, GROUP)]
    longest = (few['decoder_target_tokens'] > 0).sum(axis=1).max()
    assert {batch.shape[1] for batch in batches} == {longest}
    assert grouped(few).describe().endswith(f'padded to {longest} tokens')


@pytest.mark.parametrize('count, group', [(200, 32), (100, 32), (64, 32), (200, 64), (100, 400)])
def test_copies_of_a_row_in_later_epochs_do_not_meet(features, count, group):
    few = {name: values[:count] for name, values in features.items()}
    data, plain = grouped(few, group=group), Examples(few, 0)
    batches = [data.batch(first, group)['labels'] for first in range(0, 12 * group, group)]
    in_order = [plain.batch(first, group)['labels'] for first in range(0, 12 * group, group)]
    distinct, of_plain = (np.mean([len(set(rows)) for rows in order]) for order in (batches, in_order))
    assert distinct > 0.95 * of_plain
    seen = np.concatenate(batches[: max(count // group, 1)])
    assert len(set(seen)) == min(len(seen), count)  # as many as there can be


def test_the_groups_of_a_ramp_fit_all_its_sizes():
    assert (group_size(None), group_size(8), group_size(((0, 8), (5, 12)))) == (None, 8, 24)


def test_a_group_of_nothing_is_refused(features):
    with pytest.raises(UserError, match='GROUP_BY_LENGTH is 0; it must be the batch size'):
        grouped(features, group=0)


@pytest.mark.parametrize('shapes', [1, 2, 3, 9])
@pytest.mark.parametrize('seed', range(4))
def test_rows_are_padded_as_little_as_the_number_of_shapes_allows(shapes, seed):
    lengths = np.random.default_rng(seed).geometric(0.2, 40)
    padded, values = padded_lengths(lengths, shapes, least_saving=0), np.unique(lengths)
    assert (padded >= lengths).all() and len(np.unique(padded)) <= shapes
    assert padded[lengths == values[-1]][0] == values[-1]
    choices = itertools.combinations(values[:-1], min(shapes, len(values)) - 1)
    least = min(sum(min(e for e in (*ends, values[-1]) if e >= n) for n in lengths) for ends in choices)
    assert padded.sum() == least


@pytest.mark.parametrize('seed', range(4))
def test_each_further_length_saves_its_share_and_the_next_would_not(seed):
    lengths = np.random.default_rng(seed).geometric(0.1, 200)
    padded = [padded_lengths(lengths, shapes, least_saving=0).sum() for shapes in range(1, 13)]
    saved = [1 - after / before for before, after in itertools.pairwise(padded)]
    expected = next(number for number, share in enumerate(saved, 1) if share < 0.035)
    assert 3 < expected < 12 and len(np.unique(padded_lengths(lengths, 12))) == expected
    of_much_the_same_length = np.random.default_rng(seed).integers(19, 21, 300)
    assert len(np.unique(padded_lengths(of_much_the_same_length, 6))) == 1


def test_texts_without_tokens_and_equal_texts_have_one_length():
    assert padded_lengths(np.array([7, 7, 7]), 6).tolist() == [7, 7, 7]
    tokens = np.zeros((3, 5), np.int32)
    assert grouped({'decoder_target_tokens': tokens}, group=1).batch(0, 1)['decoder_target_tokens'].shape == (1, 1)


def test_one_pass_reads_each_example_once_in_few_lengths(features):
    data = features | {'weights': np.ones(E)}
    numbers, batches = zip(*one_pass(data, 5, 'weights', {'decoder_target_tokens': 1}), strict=True)
    assert sorted(np.concatenate(numbers)) == list(range(E))
    assert {len(b['labels']) for b in batches} == {5} and len(numbers[-1]) == E % 5
    lengths = [b['decoder_target_tokens'].shape[1] for b in batches]
    assert len(set(lengths)) == 5 and lengths == sorted(lengths)
    for rows, batch in zip(numbers, batches, strict=True):
        np.testing.assert_array_equal(batch['labels'][: len(rows)], rows)
        assert batch['weights'].tolist() == [1] * len(rows) + [0] * (5 - len(rows))
        for row, tokens in zip(rows, batch['decoder_target_tokens'], strict=False):
            np.testing.assert_array_equal(np.pad(tokens, (0, L - len(tokens))), features['decoder_target_tokens'][row])
    assert data['weights'].all()  # the features themselves are left alone


def test_one_pass_over_few_batches_has_one_length_and_the_order_of_the_data(features):
    data = features | {'weights': np.ones(E)}
    numbers, batches = zip(*one_pass(data, E // 4, 'weights', {'decoder_target_tokens': 1}), strict=True)
    assert np.concatenate(numbers).tolist() == list(range(E))
    assert {b['decoder_target_tokens'].shape[1] for b in batches} == {L}


@pytest.fixture
def tables(tmp_path):
    sentences = [['word'] * n for n in np.random.default_rng(1).integers(1, 7, 64)]
    rows = [f'{" ".join(words)} {i},{"ab"[i % 2]}' for i, words in enumerate(sentences)]
    tagged = ['\n'.join(f'{word} {("O", "B-X")[i % 2]}' for word in words) for i, words in enumerate(sentences)]
    (tmp_path / 'texts.csv').write_text('\n'.join(['text,label', *rows]))
    (tmp_path / 'tags.conll').write_text('\n\n'.join(tagged))
    return tmp_path


def kinds(tables, group):
    texts, tags = str(tables / 'texts.csv'), str(tables / 'tags.conll')
    pairs = PairTable(texts, texts, input='{text}', target='{label}')
    lengths = {'inputs': 40, 'targets': 8}
    return {
        'class': (LabelledText(LabelledTable(texts, texts), lengths, 'bytes', group_by_length=group), ClassLoss()),
        'tags': (TaggedText(TaggedTable(tags, tags), lengths, 'bytes', group_by_length=group), ClassLoss()),
        'text': (TextToText(pairs, lengths, 'bytes', group_by_length=group), LanguageModelLoss(chunk_length=8)),
    }


def test_packed_rows_that_are_half_empty_are_not_told_to_be_packed(tmp_path, caplog):
    caplog.set_level('INFO')
    (tmp_path / 'pairs.csv').write_text('input,target\n' + f'{"q" * 20},a\n' * 40)
    table = PairTable(str(tmp_path / 'pairs.csv'), str(tmp_path / 'pairs.csv'))
    TextToText(table, {'inputs': 32, 'targets': 8}, 'bytes', pack=True).batch(0, 4)
    said = caplog.text
    assert '40 examples in 40 rows of 40 tokens' in said and 'of them padding' in said and 'PACK' not in said


@pytest.mark.parametrize('kind', ['class', 'tags', 'text'])
def test_much_padding_is_told_with_what_helps(tables, kind, caplog):
    batch = kinds(tables, None)[kind][0].batch(0, 64)
    share = 1 - is_token(batch).mean()
    said = caplog.text
    assert f'64 rows of {batch["decoder_input_tokens"].shape[1]} tokens, {share:.0%} of them padding' in said
    assert '--gin.GROUP_BY_LENGTH=%BATCH_SIZE' in said and ('--gin.PACK=True' in said) == (kind == 'text')
    caplog.clear()
    kinds(tables, 8)[kind][0].batch(0, 8)
    assert not caplog.text


@pytest.mark.parametrize('kind', ['class', 'tags', 'text'])
def test_the_loss_of_a_group_is_that_of_its_whole_rows(tables, kind):
    data, loss = kinds(tables, 8)[kind]
    batch = data.batch(0, 8)
    length = batch['decoder_input_tokens'].shape[1]
    assert length < data.length
    whole = {
        name: np.pad(v, [(0, 0), (0, data.length - length)]) if v.shape[1:2] == (length,) else v
        for name, v in batch.items()
    }
    assert whole['decoder_input_tokens'].shape == kinds(tables, None)[kind][0].batch(0, 8)['decoder_input_tokens'].shape
    head = None if kind == 'text' else Head(len(data.labels), pooling='none' if kind == 'tags' else 'mean')
    model = PaLM(Architecture(**(MICRO | {'vocab_size': 260})), head=head)
    params = initial(model)
    losses = [float(jax.jit(lambda b: loss(model, params, b)[0])(b)) for b in (batch, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
