"""Both parts of supervised data in numbers, and what is unusual about them."""

import json
import logging
import random
import re

import pytest

from palm_jax.data.readers import tables
from palm_jax.data.supervised.conversations import Dialogues, PairTable
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.data.supervised.tagged_text import TaggedTable, TaggedText
from palm_jax.data.supervised.text_to_text import TextToText
from palm_jax.labels.label_set import LabelSet


@pytest.fixture(autouse=True)
def warnings(caplog):
    tables.read.cache_clear()
    caplog.set_level(logging.WARNING)
    return caplog


def write(path, header, rows):
    path.write_text('\n'.join([','.join(header), *(','.join(f'"{cell}"' for cell in row) for row in rows)]) + '\n')
    return str(path)


def labelled(path, length=64, **options):
    return LabelledText(LabelledTable(path, **options), {'inputs': length}, 'bytes')


def test_a_class_with_one_row_is_trained_on_and_all_are_counted(tmp_path, warnings):
    rows = [(f'text {i}', 'ab'[i % 2]) for i in range(80)]
    for i in range(30):  # one of these is in the tenth that the hash holds out
        data = labelled(write(tmp_path / f'{i}.csv', ('text', 'label'), [*rows, (f'rare {i}', 'c')]))
        assert 'c' in [e.label for e in data.table.examples('train')] and data.labels == ('a', 'b', 'c')
    text = data.describe()
    count = len(data.validation_examples)
    assert f'data       {81 - count} rows for training, {count} held out of TRAIN_FILES by hash' in text
    assert 'c 1 + 0' in text and 'tokens per character, 0.0% of the training rows are cut' in text
    assert 'also in the training' not in warnings.text and 'bytes' not in warnings.text


def test_a_label_of_a_set_is_not_held_out_completely(tmp_path):
    rows = [(f'text {i}', f'a|only {i // 2}') for i in range(60)]
    table = LabelledTable(write(tmp_path / 'sets.csv', ('text', 'label'), rows), kind=LabelSet())
    known = {name for e in table.examples('train') for name in LabelSet().class_names(e.label)}
    assert len(known) == 31 and table.examples('validation')


def test_a_tag_is_not_held_out_completely(tmp_path):
    sentences = [f'word{i} B-TYPE{i // 2}\nnext{i} O\n' for i in range(60)]
    (tmp_path / 'train.conll').write_text('\n'.join(sentences))
    table = TaggedTable(str(tmp_path / 'train.conll'))
    assert len({tag for s in table.examples('train') for tag in s.tags}) == 31 and table.examples('validation')
    text = TaggedText(table, {'inputs': 64}, 'bytes').describe()
    assert 'sentences for training' in text and 'classes    30: 1 (TYPE' in text and 'none held out of TYPE' in text


def test_chats_that_begin_alike_are_divided(tmp_path):
    system = {'role': 'system', 'content': 'You are helpful.'}
    chats = [
        {'messages': [system, {'role': 'user', 'content': f'q {i}'}, {'role': 'assistant', 'content': f'a {i}'}]}
        for i in range(30)
    ]
    (tmp_path / 'chats.jsonl').write_text('\n'.join(map(json.dumps, chats)) + '\n')
    source = Dialogues(str(tmp_path / 'chats.jsonl'))
    parts = [source.examples(split) for split in ('train', 'validation')]
    assert sum(map(len, parts)) == 30 and 1 <= len(parts[1]) <= 10


def test_rows_with_one_instruction_are_divided(tmp_path):
    path = write(tmp_path / 'pairs.csv', ('input', 'target'), [('Write a joke.', f'joke {i}') for i in range(100)])
    source = PairTable(path)
    assert len(source.examples('train')) + len(source.examples('validation')) == 100
    assert 3 <= len(source.examples('validation')) <= 25


def test_rows_of_both_files_are_reported_with_their_number(tmp_path, warnings):
    train = write(tmp_path / 'train.csv', ('text', 'label'), [(f'text {i}', 'ab'[i % 2]) for i in range(20)])
    dev = write(tmp_path / 'dev.csv', ('text', 'label'), [(f'text {i}', 'ab'[i % 2]) for i in range(15, 25)])
    text = labelled(train, validation_files=dev).describe()
    assert '5 of 10 held-out rows are also in the training part (50.0%)' in warnings.text
    assert '20 rows for training, 10 held out in VALIDATION_FILES' in text and 'a 10 + 5, b 10 + 5' in text


def test_a_vocabulary_that_does_not_know_the_script_is_reported(tmp_path, warnings):
    draw = random.Random(0)
    rows = [(''.join(chr(0x4E00 + draw.randrange(3000)) for _ in range(40)), 'ab'[i % 2]) for i in range(40)]
    text = labelled(write(tmp_path / 'zh.csv', ('text', 'label'), rows)).describe()
    assert (
        'the vocabulary splits this text into bytes: 3.00 tokens per character; 100.0% of the training' in warnings.text
    )
    assert '3.00 tokens per character, 100.0% of the training rows are cut, 100.0% of the held-out rows are cut' in text


def test_a_vocabulary_that_does_not_know_words_is_reported_for_every_kind_of_data(tmp_path, warnings):
    added = [
        {'id': i, 'content': name, 'special': True, 'single_word': False, 'lstrip': False, 'rstrip': False,
         'normalized': False}
        for name, i in (('<s>', 3), ('</s>', 4))
    ]  # fmt: skip
    words = {'type': 'WordLevel', 'vocab': {'[UNK]': 0, 'known': 1, 'yes': 2}, 'unk_token': '[UNK]'}
    content = {'version': '1.0', 'added_tokens': added, 'pre_tokenizer': {'type': 'WhitespaceSplit'}, 'model': words}
    content |= dict.fromkeys(('truncation', 'padding', 'normalizer', 'decoder'))
    (tmp_path / 'tokenizer.json').write_text(json.dumps(content))
    (tmp_path / 'tokenizer_config.json').write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    vocabulary, length = str(tmp_path / 'tokenizer.json'), {'inputs': 16, 'targets': 8}
    rows = [(f'known {"known" if i % 4 else "other"}', 'ab'[i % 2]) for i in range(40)]
    table = write(tmp_path / 't.csv', ('text', 'label'), rows)
    pairs = write(tmp_path / 'p.csv', ('input', 'target'), [(text, 'yes') for text, _ in rows])
    (tmp_path / 't.conll').write_text('known B-X\nother O\n\n' * 40)
    files = str(tmp_path / 't.conll')
    for data, share in (
        (LabelledText(LabelledTable(table, table), length, vocabulary), r'10 of 160 training tokens \(6.2%\)'),
        (TextToText(PairTable(pairs, pairs), length, vocabulary), r'10 of \d+ training tokens'),
        (TaggedText(TaggedTable(files, files), length, vocabulary), r'40 of 120 training tokens \(33.3%\)'),
    ):
        warnings.clear()
        data.describe()
        assert re.search(rf'{share}.* are unknown to the vocabulary of the base model', warnings.text), warnings.text
    warnings.clear()
    labelled(table, validation_files=table).describe()  # bytes know every text
    assert 'unknown' not in warnings.text


@pytest.mark.parametrize('count', [1, 4, 9, 10])
def test_few_held_out_examples_are_reported(tmp_path, warnings, count):
    train = write(tmp_path / 'train.csv', ('text', 'label'), [(f'text {i}', 'ab'[i % 2]) for i in range(20)])
    dev = write(tmp_path / 'dev.csv', ('text', 'label'), [(f'new {i}', 'ab'[i % 2]) for i in range(count)])
    labelled(train, validation_files=dev).describe()
    if count == 10:
        assert 'held out' not in warnings.text
        return
    shown = {1: 'only 1 row is held out', 4: 'only 4 rows are held out', 9: 'only 9 rows are held out'}
    assert shown[count] in warnings.text and '--gin.VALIDATION_FILES=' in warnings.text


def test_answers_that_the_cut_removes_are_reported(tmp_path, warnings):
    places = [(f'{"x" * (5 if i % 4 else 60)} answer{i:02}', f'answer{i:02}') for i in range(40)]
    path = write(tmp_path / 'qa.csv', ('input', 'target'), places)
    TextToText(PairTable(path, path), {'inputs': 32, 'targets': 16}, 'bytes').describe()
    assert (
        '10 of 40 answers in the inputs of the train examples (25.0%) are in the part that is cut off' in warnings.text
    )
    warnings.clear()
    TextToText(PairTable(path, path), {'inputs': 96, 'targets': 16}, 'bytes').describe()
    assert 'cut off' not in warnings.text
