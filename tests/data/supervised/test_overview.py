"""Both parts of supervised data in numbers."""

import collections

import pytest

from palm_jax.data.supervised import overview
from palm_jax.data.vocabulary.vocabularies import Bytes


def test_classes_are_counted_in_both_parts():
    train, held_out = [['b'], ['a', 'b'], ['b']], [['a'], []]
    assert overview.of_classes(train, held_out) == ['classes    (training + held out) a 1 + 1, b 3 + 0']
    assert overview.of_classes([[], []], [[]]) == []


def test_of_many_classes_the_rarest_and_the_most_frequent_are_named():
    names = [f'class {i:02}' for i in range(25)]
    train = [[name] for i, name in enumerate(names) for _ in range(i + 1)]
    counts = collections.Counter(name for (name,) in train)
    line, missing = overview.of_classes(train, [['class 03'], ['class 03'], ['class 04']])
    assert line == (
        f'classes    25: {min(counts.values())} (class 00) to {max(counts.values())} (class 24) each for training, '
        '0 (class 00) to 2 (class 03) each held out'
    )
    assert missing.startswith('           none held out of class 00, class 01, class 02, class 05')
    assert missing.endswith('class 21 and 3 more')


@pytest.mark.parametrize('texts, expected', [(['aé', 'b'], 4 / 3), (['語' * 5000], 3.0), ([''], 0.0)])
def test_tokens_per_character(texts, expected):
    assert overview.tokens_per_character(Bytes(), texts) == pytest.approx(expected)


def test_a_sample_of_the_texts_is_spread_over_all():
    texts = ['a'] * 500 + ['é'] * 500
    assert overview.tokens_per_character(Bytes(), texts) == pytest.approx(1.5, abs=0.02)


def test_what_is_unusual_is_said():
    assert overview.warning_of_bytes(1.19) == overview.warning_of_few(10, 'row') == ''
    assert '3.00 tokens per character' in overview.warning_of_bytes(3.0)
    assert overview.warning_of_few(1, 'row').startswith('only 1 row is held out')
    assert overview.warning_of_few(9, 'row').startswith('only 9 rows are held out')
    count = {'train': 1234, 'validation': 1}
    assert overview.of_rows(count, 'row', True).endswith('1,234 rows for training, 1 held out of TRAIN_FILES by hash')
    assert overview.of_rows(count, 'row', False).endswith('1 held out in VALIDATION_FILES')
