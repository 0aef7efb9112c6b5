"""Input files: formats, compression, URLs; messages about bad files, and skipped rows."""

import bz2
import gzip
import json
import lzma

import fsspec
import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from palm_jax.data.readers import bad_rows, files, tables
from palm_jax.data.readers.delimited import Layout
from palm_jax.data.readers.text_files import TextFiles
from palm_jax.data.supervised.conversations import Dialogues, PairTable
from palm_jax.data.supervised.labelled_text import LabelledTable
from palm_jax.errors import UserError
from palm_jax.labels.number import Number

ROWS = [{'text': f'text {i}, "quoted"\nin two lines', 'label': 'ab'[i % 2]} for i in range(60)]
PACKED = {'': bytes, '.gz': gzip.compress, '.bz2': bz2.compress, '.xz': lzma.compress, '.zst': zstandard.compress}


@pytest.fixture(autouse=True)
def read_anew():
    tables.read.cache_clear()
    bad_rows.shared_bad_rows.cache_clear()


def content(suffix, rows=ROWS):
    if suffix == '.parquet':
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue().to_pybytes()
    if suffix == '.jsonl':
        return '\n'.join(map(json.dumps, rows)).encode()
    if suffix == '.json':
        return json.dumps(rows).encode()
    delimiter = ',' if suffix == '.csv' else '\t'
    quoted = [delimiter.join('"' + v.replace('"', '""') + '"' for v in row.values()) for row in rows]
    return '\r\n'.join([delimiter.join(rows[0]), *quoted]).encode('utf-8-sig')


@pytest.mark.parametrize('packing', PACKED)
@pytest.mark.parametrize('suffix', ['.csv', '.tsv', '.jsonl', '.json', '.parquet'])
def test_a_table_is_the_same_in_every_format(tmp_path, suffix, packing):
    path = tmp_path / f'table{suffix}{packing}'
    path.write_bytes(PACKED[packing](content(suffix)))
    layout = Layout(quoting=True if suffix == '.tsv' else None)
    read = tables.read(str(path), (('TEXT_COLUMN', 'text'), ('LABEL_COLUMN', 'label')), 'TRAIN_FILES', layout)
    assert [row.values for row in read] == ROWS
    texts, again = (TextFiles(str(path), layout=layout) for _ in range(2))
    both = [d['text'] for split in ('train', 'validation') for d in texts.examples(split)]
    assert sorted(both) == sorted(row['text'] for row in ROWS) and texts.cache_key() == again.cache_key()


@pytest.mark.parametrize('packing', PACKED)
def test_texts_are_the_same_plain_and_compressed(tmp_path, packing):
    for i in range(30):
        (tmp_path / f'{i:02}.txt{packing}').write_bytes(PACKED[packing](f'text {i}\n'.encode()))
    (tmp_path / 'table.csv').write_text('no,text,of,this\n')
    texts = TextFiles(str(tmp_path))
    splits = {split: [d['text'] for d in texts.examples(split)] for split in ('train', 'validation')}
    assert sorted(splits['train'] + splits['validation']) == sorted(f'text {i}\n' for i in range(30))
    assert splits['validation'] and list(texts.examples('train')) == list(texts.examples('train'))


def test_a_folder_of_tables_is_read_where_it_holds_no_text(tmp_path):
    for i in range(3):
        (tmp_path / f'part-{i}.jsonl.gz').write_bytes(gzip.compress(content('.jsonl', ROWS[i::3])))
    texts = TextFiles(str(tmp_path), text_column='label')
    assert sum(1 for split in ('train', 'validation') for _ in texts.examples(split)) == 60


def test_a_url_is_read_by_fsspec():
    system = fsspec.filesystem('memory')
    for i in range(3):
        system.pipe(f'/bucket/part-{i}.jsonl.zst', zstandard.compress(content('.jsonl', ROWS[i::3])))
    pattern = 'memory://bucket/part-*.jsonl.zst'
    assert len(files.glob_files(pattern, 'TRAIN_FILES')) == 3
    table = LabelledTable(pattern)
    assert len(table.examples('train')) + len(table.examples('validation')) == 60
    with pytest.raises(UserError, match='no files there'):
        files.glob_files('memory://bucket/*.csv', 'TRAIN_FILES')
    with pytest.raises(UserError, match="TRAIN_FILES = 'nowhere://x': nowhere:// cannot be read here"):
        files.glob_files('nowhere://x', 'TRAIN_FILES')


BAD = {
    'cut.csv.gz': (gzip.compress(content('.csv'))[:-20], 'truncated or corrupt compressed file'),
    'plain.csv.gz': (content('.csv'), 'truncated or corrupt compressed file'),
    'plain.jsonl.zst': (content('.jsonl'), 'truncated or corrupt compressed file'),
    'plain.jsonl.xz': (content('.jsonl'), 'truncated or corrupt compressed file'),
    'text.parquet': (b'text,label\na,b\n', 'not a valid Parquet file'),
    'latin.jsonl': (b'{"text": "a"}\n{"text": "\xe9"}\n', 'latin.jsonl, line 2: byte 0xe9 is not UTF-8.*iconv'),
    'utf16.csv': ('text,label\na,b\n'.encode('utf-16'), 'line 1: this is UTF-16, not UTF-8.*iconv -f utf-16'),
    'nul.jsonl': (b'{"text": "a"}\n{"text": "\0"}\n', 'line 2: contains a NUL byte'),
    'number.jsonl': (b'{"text": "a"}\n7\n', 'line 2: expected an object {...}, found a number'),
    'half.jsonl': (b'{"text": "a"}\n{"text": "b"\n', 'line 2, column 13: invalid JSON'),
    'column.jsonl': (b'{"txt": "a"}\n', r"line 1: no column 'text'. Did you mean txt\?"),
    'blank.csv': (b'text,label\n  ,b\n', "line 2: the column 'text' is empty"),
    'open.csv': (b'text,label\n"a,b\n', 'unexpected end of data'),
    'empty.jsonl': (b'', 'all of them are empty'),
    'empty.txt.gz': (gzip.compress(b'\n'), 'all of them are empty'),
    'one.txt': (b'a line without end', 'too short to hold some of it out'),
}


@pytest.mark.parametrize('name', BAD)
def test_a_bad_file_is_one_message_with_its_place(tmp_path, name):
    data, message = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        list(TextFiles(str(tmp_path / name)).examples('train'))


def test_a_folder_or_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r'no \.txt, .*\.parquet files below this folder'):
        TextFiles(str(tmp_path)).cache_key()
    (tmp_path / 'picture.png').write_bytes(b'\x89PNG')
    with pytest.raises(UserError, match=r'no \.txt'):
        TextFiles(str(tmp_path)).cache_key()
    with pytest.raises(UserError, match=r"TRAIN_FILES = '.*picture.png': '.png' is not a table format. Formats: .csv"):
        LabelledTable(str(tmp_path / 'picture.png')).examples('train')


def test_one_broken_line_among_many_is_found_by_its_number(tmp_path):
    lines = content('.jsonl', ROWS * 500).split(b'\n')
    lines[23_456] = lines[23_456][:-3]
    (tmp_path / 'many.jsonl').write_bytes(b'\n'.join(lines))
    with pytest.raises(UserError, match=r'many.jsonl, line 23457, column \d+: invalid JSON'):
        TextFiles(str(tmp_path / 'many.jsonl')).cache_key()


def test_a_line_of_many_megabytes_is_a_text_like_any_other(tmp_path):
    long = 'x' * 20_000_000
    (tmp_path / 'long.jsonl').write_text('\n'.join(json.dumps({'text': t}) for t in (long, 'a', 'b', 'c', 'd')))
    texts = TextFiles(str(tmp_path / 'long.jsonl'), str(tmp_path / 'long.jsonl'))
    assert max(len(d['text']) for d in texts.examples('train')) == len(long)


# Skipped rows.

SPOILED = {
    'rows.jsonl': [*content('.jsonl').split(b'\n'), b'{"text": "open', b'[]', b'{"text": "a"}', b'{"label": "a"}'],
    'rows.csv': [b'text,label', *(b't%d,a' % i for i in range(60)), b'a,b,c', b'one', b',b', b'"x" y,b'],
}


@pytest.mark.parametrize('name', SPOILED)
def test_bad_rows_are_skipped_told_and_written_down(tmp_path, name, caplog):
    path, aside = tmp_path / name, tmp_path / 'bad.txt'
    path.write_bytes(b'\n'.join(SPOILED[name]))
    with pytest.raises(UserError, match=r'line 6[12]|line 5'):
        LabelledTable(str(path)).examples('train')
    table = LabelledTable(str(path), bad_rows=str(aside))
    assert len(table.examples('train')) + len(table.examples('validation')) == 60
    written = aside.read_text().splitlines()
    assert len(written) == 4 and all(f'{path}, line ' in line for line in written)
    assert 'skipped 4 bad row(s)' in caplog.text
    aside.unlink()
    bad_rows.shared_bad_rows.cache_clear()
    texts = TextFiles(str(path), text_column='text', bad_rows=str(aside))
    texts.cache_key()
    kept = sum(1 for split in ('train', 'validation') for _ in texts.examples(split))
    assert kept == 60 + (name == 'rows.jsonl')  # {"text": "a"} is a text, though it has no label
    assert len(aside.read_text().splitlines()) == 64 - kept  # read twice, written once


def test_numbers_pairs_and_transcripts_set_their_bad_rows_aside_too(tmp_path):
    numbers = tmp_path / 'numbers.csv'
    numbers.write_text('text,label\n' + ''.join(f't{i},{i}\n' for i in range(40)) + 'x,many\ny,nan\nz,inf\n')
    table = LabelledTable(str(numbers), kind=Number(), bad_rows=str(tmp_path / 'a.txt'))
    assert len(table.examples('train')) + len(table.examples('validation')) == 40
    assert len((tmp_path / 'a.txt').read_text().splitlines()) == 3
    pairs = tmp_path / 'pairs.tsv'
    pairs.write_text('input\ttarget\n' + ''.join(f'q{i}\ta{i}\n' for i in range(40)) + 'q\t\n')
    source = PairTable(str(pairs), bad_rows=str(tmp_path / 'b.txt'))
    assert len(source.examples('train')) + len(source.examples('validation')) == 40
    chats = tmp_path / 'chats.jsonl'
    good = {'messages': [{'role': 'user', 'content': 'hello'}, {'role': 'assistant', 'content': 'hi'}]}
    bad = [{'messages': []}, {'messages': [{'role': 'robot', 'content': 'x'}]}, {'messages': 3}, {}]
    chats.write_text('\n'.join(json.dumps(c) for c in [*[good] * 3, *bad]))
    source = Dialogues(str(chats), str(chats), bad_rows=str(tmp_path / 'c.txt'))
    assert len(source.examples('train')) == 3
    assert len((tmp_path / 'c.txt').read_text().splitlines()) == 4


def test_a_file_is_found_by_its_name_also_where_that_reads_as_a_glob(tmp_path):
    odd = tmp_path / 'a [b]*.txt'
    odd.write_text('text')
    (tmp_path / 'a b.txt').write_text('another')
    (found,) = files.glob_files(str(odd), 'TRAIN_FILES')
    assert found.name == str(odd) and found.text() == 'text'
    assert [file.name for file in files.glob_files(f'{tmp_path}/a [ab].txt', 'TRAIN_FILES')] == [f'{tmp_path}/a b.txt']


def test_blank_files_are_refused(tmp_path):
    for name, content in (('a.csv', b''), ('b.csv', b'\xef\xbb\xbf \n\n'), ('c.csv', b'\n text\n')):
        (tmp_path / name).write_bytes(content)
    for pattern in ('a.csv', 'b.csv', '[ab].csv'):
        with pytest.raises(UserError, match=r'--input = .*: the file contains no rows'):
            files.refuse_blank(f'{tmp_path}/{pattern}', '--input')
    files.refuse_blank(f'{tmp_path}/c.csv', '--input')
    files.refuse_blank(f'{tmp_path}/*.csv', '--input')
