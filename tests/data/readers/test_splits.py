"""What is held out: related examples together, no name that training lacks, the same every time."""

import collections
import hashlib
import logging

import pytest

from palm_jax.data.readers.splits import choose_held_out, count_shared, is_held_out
from palm_jax.data.readers.text_files import TextFiles


def held(keys, names=None, one_in=10):
    return choose_held_out(keys, names or [()] * len(keys), one_in)


def test_texts_are_chosen_by_their_hash():
    texts = [f'text {i}' for i in range(1000)]
    expected = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 10 == 0 for text in texts]
    assert held([(text,) for text in texts]) == expected == [is_held_out(text, 10) for text in texts]
    assert 70 < sum(expected) < 130


def test_duplicates_stay_together_whatever_their_white_space():
    texts = [f'text {i}' for i in range(200)]
    chosen = held([(text,) for text in (*texts, *(f' {text.replace(" ", chr(10))} ' for text in texts))])
    assert chosen[:200] == chosen[200:]


def test_what_all_examples_share_does_not_identify_them():
    """A system message, an instruction, a question that all rows have: all or nothing would be held out."""
    shared = [('You are helpful.', f'question {i}') for i in range(300)]
    assert 15 < sum(held(shared)) < 45
    deep = [('You are helpful.', 'Hello!', f'question {i}') for i in range(300)]
    assert 15 < sum(held(deep)) < 45


def test_a_question_with_some_answers_stays_on_one_side():
    keys = [(f'question {i // 3}', f'answer {i}') for i in range(300)]
    chosen = held(keys)
    assert all(len(set(chosen[i : i + 3])) == 1 for i in range(0, 300, 3)) and 0 < sum(chosen) < 60


@pytest.mark.parametrize('seed', range(20))
def test_no_name_is_held_out_completely(seed):
    names = [('common', f'rare {seed} {i // 2}') if i < 40 else ('common',) for i in range(100)]
    chosen = held([(f'{seed} {i}',) for i in range(100)], names)
    training = collections.Counter(name for one, out in zip(names, chosen, strict=True) if not out for name in one)
    assert all(training[name] for one in names for name in one) and sum(chosen)


@pytest.mark.parametrize('count', range(2, 12))
def test_of_few_examples_one_is_held_out_and_at_most_half(count):
    assert 1 <= sum(held([(f'{count} {i}',) for i in range(count)])) <= count / 2
    assert held([('the same',)] * count) == [False] * count  # duplicates are one text
    alone = [(f'class {i}',) for i in range(count)]
    assert held([(f'{i}',) for i in range(count)], alone) == [False] * count


def test_most_of_the_examples_are_never_held_out():
    keys = [('a',)] * 60 + [(f'text {i}',) for i in range(40)]
    chosen = held(keys, one_in=2)
    assert sum(chosen) <= 50 and not chosen[0]


def test_shared_texts_are_counted():
    assert count_shared(['a b', 'c'], ['a  b\n', 'a b', 'd']) == 2
    assert count_shared(['a'], ['b']) == 0


def test_documents_in_both_files_are_reported(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    (tmp_path / 'train.jsonl').write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / 'dev.jsonl').write_text('{"text": "two"}\n{"text": "three"}\n')
    TextFiles(str(tmp_path / 'train.jsonl'), str(tmp_path / 'dev.jsonl')).cache_key()
    assert '1 of 2 documents in VALIDATION_FILES are also in TRAIN_FILES' in caplog.text
    caplog.clear()
    TextFiles(str(tmp_path / 'train.jsonl')).cache_key()
    assert not caplog.text
