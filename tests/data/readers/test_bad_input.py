"""Messages about invalid input: one message, with the location and what to do."""

import gzip
import json

import pytest

from palm_jax.data.pretraining.corpus import Corpus
from palm_jax.data.pretraining.dataset import LanguageModelData
from palm_jax.data.readers import bad_rows, conll, files, tables
from palm_jax.data.supervised.conversations import Dialogues, PairTable
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.data.supervised.tagged_text import TaggedTable, TaggedText
from palm_jax.data.supervised.text_to_text import TextToText
from palm_jax.errors import UserError
from palm_jax.labels.number import Number


@pytest.fixture(autouse=True)
def read_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for memo in (tables.read, conll.read, bad_rows.shared_bad_rows):
        memo.cache_clear()


def lines(*rows):
    return '\n'.join(rows).encode() + b'\n'


GOOD = [f'text {i},{"ab"[i % 2]}' for i in range(40)]
TEXTS = lines('text,label', *GOOD)
WORDS = ''.join(f'Ann{i} B-PER\nleft O\n\n' for i in range(40)).encode()
CHAT = {'messages': [{'role': 'user', 'content': 'hello'}, {'role': 'assistant', 'content': 'hi'}]}


def text(path, **changes):
    corpus = Corpus('unused', 'bytes', train_files=path, **changes)
    return LanguageModelData(corpus, {'targets': 8}).batch(0, 1)


def labels(path, **changes):
    lengths = changes.pop('lengths', {'inputs': 16})
    data = LabelledText(LabelledTable(path, **changes), lengths, 'bytes')
    return data.batch(0, 1), next(data.validation(2))


def tags(path, **changes):
    data = TaggedText(TaggedTable(path, **changes), {'inputs': 16}, 'bytes')
    return data.batch(0, 1), next(data.validation(2))


def pairs(path, **changes):
    lengths = changes.pop('lengths', {'inputs': 16, 'targets': 16})
    return TextToText(PairTable(path, **changes), lengths, 'bytes').batch(0, 1)


def chats(path, **changes):
    return TextToText(Dialogues(path, path, **changes), {'inputs': 16, 'targets': 16}, 'bytes').batch(0, 1)


# Name: what reads it, the file's content, its arguments, what the message says.
CASES = {
    # Files.
    'missing.txt': (text, None, {}, r"TRAIN_FILES = 'missing.txt': no such file.*no match for it as a glob \(from "),
    'no_*.csv': (labels, None, {}, r"TRAIN_FILES = 'no_\*.csv': no such file, and no match for it as a glob"),
    'empty.txt': (text, b'', {}, r'1 file\(s\) match, but all of them are empty'),
    'blank.txt': (text, b' \n\n \n', {}, 'all of them are empty'),
    'short.txt': (text, b'x', {}, r'too short to hold some of it out.*VALIDATION_FILES'),
    'empty.csv': (labels, b'', {}, 'the file contains no rows'),
    'header.csv': (labels, b'text,label\n', {}, 'the file contains no rows'),
    'sheet.xlsx': (labels, b'PK\3\4', {}, r"'\.xlsx' is not a table format. Formats: \.csv, "),
    'cut.csv.gz': (labels, gzip.compress(TEXTS)[:-9], {}, 'cut.csv.gz: truncated or corrupt compressed file'),
    'plain.txt.gz': (text, b'not packed', {}, 'truncated or corrupt compressed file'),
    # Text.
    'latin.txt': (
        text,
        b'ok\ncaf\xe9\n',
        {},
        r'latin.txt, line 2: byte 0xe9 is not UTF-8. The file looks like WINDOWS-1252.*.café..*iconv -f WINDOWS-1252',
    ),
    'utf16.txt': (text, 'hello'.encode('utf-16'), {}, r'line 1: this is UTF-16.*iconv -f utf-16'),
    'nul.txt': (text, b'ok\nok\na\0b\n', {}, 'nul.txt, line 3: contains a NUL byte, so it is not text'),
    'latin.csv': (labels, lines('text,label', *GOOD) + b'caf\xe9,a\n', {}, 'latin.csv, line 42: byte 0xe9'),
    'quoted.csv': (
        labels,
        lines('text,label', *GOOD) + b'"a\nb\n\xe9",a\n',
        {},
        '2 line.s. further down: byte 0xe9',
    ),
    'nul.csv': (labels, lines('text,label', *GOOD) + b'a\0b,a\n', {}, 'nul.csv, line 42: contains a NUL byte'),
    'latin.jsonl': (text, b'{"text": "a"}\n{"text": "\xe9"}\n', {}, 'latin.jsonl, line 2: byte 0xe9'),
    'latin.conll': (tags, WORDS + b'caf\xe9 O\n', {}, 'latin.conll, line 121: byte 0xe9'),
    'nul.conll': (tags, WORDS + b'a\0 O\n', {}, 'nul.conll, line 121: contains a NUL byte'),
    # Tables.
    'column.csv': (
        labels,
        lines('txt,label', *GOOD),
        {},
        r"line 2: no column 'text'. Did you mean txt\? Columns: txt",
    ),
    'ragged.csv': (labels, lines('text,label', *GOOD, 'a,b,c'), {}, 'line 42: 3 values, but the header has 2 columns'),
    'few.csv': (labels, lines('text,label', *GOOD, 'a'), {}, 'line 42: 1 value, but the header has 2 columns'),
    'twice.csv': (labels, lines('text,text,label', 'a,b,c'), {}, "line 1: the header names the column 'text' 2 times"),
    'semicolon.csv': (
        labels,
        lines('text;label', 'a;b'),
        {},
        "line 1: the columns are separated by ';'.*save it",
    ),
    'open.csv': (labels, TEXTS + b'"a,b\n', {}, 'open.csv, line 4[23]: unexpected end of data'),
    'quote.csv': (labels, TEXTS + b'"x" y,b\n', {}, 'quote.csv, line 42: .*expected after'),
    'blank.csv': (labels, TEXTS + b'  ,b\n', {}, "blank.csv, line 42: the column 'text' is empty"),
    'nolabel.csv': (labels, TEXTS + b'c,\n', {}, "nolabel.csv, line 42: the column 'label' is empty"),
    'half.jsonl': (text, b'{"text": "a"}\n{"text": "b"\n', {}, 'half.jsonl, line 2, column 13: invalid JSON'),
    'number.jsonl': (text, b'{"text": "a"}\n7\n', {}, r'line 2: expected an object \{...\}, found a number'),
    'null.jsonl': (text, b'{"text": "a"}\n{"text": null}\n', {}, "line 2: the column 'text' is empty"),
    'scalar.json': (labels, b'7', {}, r'scalar.json: expected a list of rows \[...\], found a number'),
    'object.json': (labels, b'{"rows": []}', {}, 'found an object. Name a list in it: .*#rows'),
    'text.parquet': (labels, TEXTS, {}, 'not a valid Parquet file'),
    # Labels.
    'unseen.csv': (
        labels,
        TEXTS,
        {'validation_files': 'v.csv'},
        "v.csv, line 2: the label 'A' never occurs in training",
    ),
    'one.csv': (
        labels,
        lines('text,label', *[f't{i},a' for i in range(40)]),
        {},
        "every label is 'a'; a classifier needs two classes",
    ),
    'few_rows.csv': (
        labels,
        lines('text,label', 'a,b'),
        {},
        'too few to hold some out for validation.*VALIDATION_FILES',
    ),
    'words.csv': (labels, TEXTS, {'kind': Number()}, "words.csv, line 2: the label 'a' is not a number"),
    'nan.csv': (
        labels,
        lines('text,label', *['t,1'] * 9, 't,nan'),
        {'kind': Number()},
        "line 11: the label 'nan' is not a number",
    ),
    'length.csv': (labels, TEXTS, {'lengths': {'targets': 8}}, "it needs 'inputs' of at least 3 tokens"),
    # Tags.
    'columns.conll': (
        tags,
        WORDS + b'alone\n',
        {},
        r"line 121: 1 column\(s\) in 'alone'; a line needs a word and its tag",
    ),
    'far.conll': (tags, WORDS, {'tag_column': 4}, r'line 1: 2 column\(s\).*TAG_COLUMN = 4'),
    'tag.conll': (tags, WORDS + b'Bob PER\n', {}, "line 121: 'PER' in 'Bob PER' is not a tag; tags are O, B-TYPE"),
    'pattern.conll': (tags, WORDS, {'word_pattern': r'(.)\d'}, 'line 1: WORD_PATTERN = .* does not match a word'),
    'only_o.conll': (
        tags,
        b''.join(b'a%d O\n\n' % i for i in range(40)),
        {},
        'every tag is O; a tagger needs at least one entity',
    ),
    'nothing.conll': (tags, b'\n\n', {}, 'the files contain no sentences'),
    'names.conll': (tags, WORDS, {'names': ['O', 'B-LOC']}, "the tag 'B-PER' is not one of O, B-LOC"),
    # Pairs and dialogues.
    'field.csv': (pairs, lines('q,target', 'a,b'), {}, "line 2: no column 'input'.*--gin.INPUT_TEMPLATE"),
    'brace.csv': (pairs, TEXTS, {'input': '{text'}, r"The template '\{text'.*Put column names in braces"),
    'sides.csv': (pairs, TEXTS, {'lengths': {'inputs': 16}}, "it needs 'inputs' and 'targets'"),
    'refs.csv': (
        pairs,
        lines('input,target,refs', 'a,b,c'),
        {'references_column': 'refs', 'validation_files': 'refs.csv'},
        "line 2: REFERENCES_COLUMN = 'refs' is not a JSON list of texts: 'c'",
    ),
    'squad.json': (
        pairs,
        json.dumps({'data': [{'paragraphs': [{'context': 'c', 'qas': [{'id': '7', 'question': 'q'}]}]}]}).encode(),
        {'input': '{question}', 'target': '{answer}'},
        "squad.json, question 7: SQuAD's format requires 'answers' here; found: id, question",
    ),
    'text.jsonl': (chats, lines(json.dumps({'messages': 'hello'})), {}, 'line 1: `messages` is not a list of messages'),
    'role.jsonl': (
        chats,
        lines(json.dumps(CHAT), json.dumps({'messages': [{'role': 'asistant', 'content': 'x'}]})),
        {},
        r"line 2, message 1: the role 'asistant' is unknown. Did you mean assistant\?",
    ),
    'no_text.jsonl': (
        chats,
        lines(json.dumps({'messages': [{'role': 'user'}]})),
        {},
        'line 1, message 1: the message has no text',
    ),
    'no_reply.jsonl': (
        chats,
        lines(json.dumps({'messages': [{'role': 'user', 'content': 'x'}]})),
        {},
        'line 1: no message is a reply',
    ),
    # Vocabularies and names.
    'vocabulary.txt': (text, b'hello\n' * 99, {'vocabulary': 'none.model'}, 'No vocabulary at none.model'),
    'not_one.txt': (text, b'hello\n' * 99, {'vocabulary': 'not_one.txt'}, 'not_one.txt is not a SentencePiece model'),
    'json.txt': (text, b'hello\n' * 99, {'vocabulary': 'v.csv.json'}, 'v.csv.json is not a valid tokenizer.json'),
}


@pytest.mark.parametrize('name', CASES)
def test_one_message_with_the_place_and_what_to_do(name, tmp_path):
    read, content, changes, message = CASES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (tmp_path / 'v.csv').write_text('text,label\nx,A\n')
    (tmp_path / 'v.csv.json').write_text('text,label\nx,A\n')
    changes = dict(changes)
    vocabulary = {'vocabulary': changes.pop('vocabulary')} if 'vocabulary' in changes else {}
    with pytest.raises(UserError, match=f'(?is){message}'):
        if vocabulary:
            corpus = Corpus('unused', train_files=name, **vocabulary)
            LanguageModelData(corpus, {'targets': 8}).batch(0, 1)
        else:
            read(name, **changes)


def test_there_are_at_least_forty_cases():
    assert len(CASES) >= 40


def test_a_folder_where_files_are_wanted(tmp_path):
    folder = tmp_path / 'folder'
    folder.mkdir()
    with pytest.raises(
        UserError, match=r"TRAIN_FILES = 'folder' is a folder; there are no tables or texts in it; name files"
    ):
        labels('folder')
    with pytest.raises(UserError, match=r'no \.txt, .* files below this folder'):
        text('folder')
    for name in ('.hidden.txt', 'a.jsonl', 'b.jsonl', 'c.csv.gz', 'd.csv.gz', 'e.csv.gz', 'v1.2.xml', 'LICENSE'):
        (folder / name).touch()
    wanted = r'folder; name its files: folder/\*\.csv\.gz, folder/\*\.jsonl or folder/\*\.xml$'
    with pytest.raises(UserError, match=wanted):
        labels('folder')


@pytest.mark.parametrize('ending', ['\n', '\r\n'])
@pytest.mark.parametrize('mark', [b'', b'\xef\xbb\xbf'])
def test_line_ends_and_byte_order_marks_change_nothing(tmp_path, ending, mark):
    for name, content in (('t.csv', TEXTS), ('t.conll', WORDS), ('t.jsonl', lines(json.dumps(CHAT)))):
        (tmp_path / name).write_bytes(mark + content.replace(b'\n', ending.encode()))
    table = LabelledTable('t.csv')
    assert next((e.text, e.label) for e in table.examples('train')) == ('text 0', 'a')
    assert TaggedTable('t.conll', 't.conll').examples('train')[0].words == ('Ann0', 'left')
    assert Dialogues('t.jsonl', 't.jsonl').examples('train')[0].turns[0].text == 'hello'


@pytest.mark.parametrize('limit, size', [(1, 24), pytest.param(64, 1024, marks=pytest.mark.slow)])
def test_a_line_that_is_much_too_long_is_said(tmp_path, monkeypatch, limit, size):
    assert files.LONGEST_LINE == 64 << 20
    monkeypatch.setattr(files, 'LONGEST_LINE', limit << 20)
    for name, read in (('long.txt', text), ('long.jsonl', text), ('long.conll', tags)):
        with open(tmp_path / name, 'wb') as file:
            file.truncate(size << 20)  # which takes no room on the disk
        with pytest.raises(UserError, match=f'{name}, line 1: longer than {limit} MiB without a line break.*fold'):
            read(name)


def test_a_long_line_is_skipped_like_any_other_bad_one(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'LONGEST_LINE', 1000)
    (tmp_path / 'long.jsonl').write_bytes(lines('{"text": "a"}', json.dumps({'text': 'x' * 5000}), '{"text": "b"}'))
    read = tables.rows(files.File('long.jsonl'), 'TRAIN_FILES', bad=bad_rows.shared_bad_rows('bad.txt'))
    assert [row.values['text'] for row in read] == ['a', 'b']
    assert 'long.jsonl, line 2: longer than' in (tmp_path / 'bad.txt').read_text()


def test_a_text_longer_than_pythons_own_limit_of_a_csv_field(tmp_path):
    (tmp_path / 'long.csv').write_bytes(TEXTS + b'x' * 500_000 + b',a\n')
    assert max(len(e.text) for s in ('train', 'validation') for e in LabelledTable('long.csv').examples(s)) == 500_000


# The same, set aside.

ASIDE = {
    'labels.csv': (labels, TEXTS + b'caf\xe9,a\na\0b,a\na,b,c\n ,a\n', {}, 4, 'line 42: byte 0xe9'),
    'unseen.csv': (labels, TEXTS, {'validation_files': 'v.csv'}, 1, "v.csv, line 2: the label 'A' never occurs"),
    'tags.conll': (tags, WORDS + b'caf\xe9 O\n\nBob PER\n\nx\n\nGood O\n', {}, 3, 'line 121: byte 0xe9'),
    'rows.jsonl': (
        text,
        b'{"text": "aaaaaaaaaaaaaaaa"}\n' * 30 + b'{"text": "\xe9"}\n{\n7\n',
        {},
        3,
        'line 31: byte 0xe9',
    ),
    'chats.jsonl': (chats, lines(*[json.dumps(CHAT)] * 3, '{"messages": 3}', '{"messages": "x"}'), {}, 2, 'line 4'),
}


@pytest.mark.parametrize('name', ASIDE)
def test_bad_rows_are_counted_skipped_and_written_down(name, tmp_path, caplog):
    read, content, changes, count, first = ASIDE[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / 'v.csv').write_text('text,label\nx,A\ny,a\n')
    read(name, bad_rows='bad.txt', **changes)
    written = (tmp_path / 'bad.txt').read_text().splitlines()
    assert len(written) == count and first in written[0]
    assert f'skipped {count} bad row(s), listed with their locations in bad.txt' in caplog.text


def test_a_folder_with_one_bad_file_among_good_ones(tmp_path):
    (tmp_path / 'folder').mkdir()
    for i in range(30):
        (tmp_path / 'folder' / f'{i:02}.txt').write_text(f'a text, number {i}\n')
    (tmp_path / 'folder' / '07.txt').write_bytes(b'caf\xe9\n')
    with pytest.raises(UserError, match=r'07.txt, line 1: byte 0xe9'):
        text('folder')
    text('folder', bad_rows='bad.txt')
    assert '07.txt, line 1: byte 0xe9' in (tmp_path / 'bad.txt').read_text()
