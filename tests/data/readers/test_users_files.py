"""Files as users bring them: what they mean, or one message with the place and advice that works."""

import ast
import gzip
import json
import re
import shlex
import subprocess

import pyarrow as pa
import pytest
from pyarrow import parquet

from palm_jax.api.predictions import read_rows
from palm_jax.characters import check_characters
from palm_jax.data.readers import bad_rows, conll, files, tables
from palm_jax.data.readers.delimited import Layout
from palm_jax.data.readers.text_files import TextFiles
from palm_jax.errors import UserError

WANTED = (('TEXT_COLUMN', 'text'), ('LABEL_COLUMN', 'label'))
HALF = '{"text": "nice \\ud83d", "label": "a"}'


@pytest.fixture(autouse=True)
def read_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for memo in (tables.read, bad_rows.shared_bad_rows):
        memo.cache_clear()


def read(name, content, layout=Layout(), **options):
    tables.read.cache_clear()
    (files.Path(name)).write_bytes(content if isinstance(content, bytes) else content.encode())
    return [row.values for row in tables.read(name, options.pop('wanted', WANTED), 'TRAIN_FILES', layout, **options)]


# Text after decoding.


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a \ud83d b', r'here: character 3 is \\ud83d, half of a surrogate pair'),
        ('\udca9', r'here: character 1 is \\udca9'),
        ('a\0', 'here: character 2 is a NUL'),
    ],
)
def test_what_no_file_can_hold_is_refused(text, message):
    with pytest.raises(UserError, match=message) as caught:
        check_characters(text, 'here')
    str(caught.value).encode()  # the message itself is text
    assert check_characters('a \U0001f600 ü\u3000\ufffe', 'here') == 'a \U0001f600 ü\u3000\ufffe'


@pytest.mark.parametrize(
    'row', [HALF, '{"text": "a\\u0000b", "label": "a"}', '{"x\\ud83d": "a"}', '{"x": [{"y": "\\udc00"}]}']
)
@pytest.mark.parametrize('suffix', ['.jsonl', '.json'])
def test_escapes_that_are_not_text_are_bad_rows(row, suffix):
    good = '{"text": "\\ud83d\\ude00", "label": "b"}'
    content = f'{good}\n{row}\n{good}\n' if suffix == '.jsonl' else f'[{good},\n{row},\n{good}]'
    with pytest.raises(UserError, match=f'rows{suffix}, (line|item) 2: character'):
        read(f'rows{suffix}', content)
    found = read(f'rows{suffix}', content, bad_rows='bad.txt')
    assert found == [{'text': '😀', 'label': 'b'}] * 2
    assert f'rows{suffix}, ' in files.Path('bad.txt').read_text()


def test_deep_json_and_long_numbers_are_bad_rows():
    deep = '{"text": ' + '[' * 5000 + ']' * 5000 + ', "label": "a"}'
    rather_deep = '{"text": ' + '[' * 150 + ']' * 150 + ', "label": "a"}'
    long = '{"text": "a", "label": ' + '9' * 5000 + '}'
    good = '{"text": "b", "label": "c"}'
    content = '\n'.join((good, deep, rather_deep, long, good))
    assert len(read('rows.jsonl', content, bad_rows='bad.txt')) == 2
    written = files.Path('bad.txt').read_text().splitlines()
    for message, expected in zip(
        written, ('line 2: .*nested', 'line 3: .*nested', 'line 4: a number has more than 4,000 digits'), strict=True
    ):
        assert re.search(expected, message), message
    assert len(read('list.json', f'[{good}, {long}]', bad_rows='bad.txt')) == 1
    with pytest.raises(UserError, match=r'deep.json.*: lists and objects are nested more than 100 levels'):
        read('deep.json', f'[{deep}]')


def test_parquet_with_bytes_missing_values_and_broken_text():
    rows = {'text': [b'caf\xc3\xa9', b'ok'], 'label': [1.0, float('nan')]}
    parquet.write_table(pa.table({'text': pa.array(rows['text'], pa.binary()), 'label': rows['label']}), 'rows.parquet')
    found = [row.values for row in tables.read('rows.parquet', WANTED, 'TRAIN_FILES')]
    assert found == [{'text': 'café', 'label': 1.0}, {'text': 'ok', 'label': None}]
    broken = pa.array([b'good', b'caf\xe9'], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({'text': broken, 'label': ['a', 'b']}), 'broken.parquet')
    with pytest.raises(UserError, match=r'broken.parquet, row 2: a text is not UTF-8'):
        tables.read('broken.parquet', WANTED, 'TRAIN_FILES')
    assert len(tables.read('broken.parquet', WANTED, 'TRAIN_FILES', bad_rows='bad.txt')) == 1


# Encodings.

TEXTS = {
    'gb18030': '这家餐厅的服务态度非常好,a\n',
    'big5': '這家餐廳的服務態度非常好,a\n',
    'cp1251': 'Привет как дела всё хорошо спасибо,a\n',
    'cp1252': 'Große Straßen sehen schön aus – und “laut”,a\n',
    'cp932': 'このレストランはとても良いです,a\n',
    'cp1257': 'Mano užsakymas dar neatvyko prašau padėkite ačiū,a\n',
    'iso8859-2': 'Zażółć gęślą jaźń proszę bardzo dziękuję za książkę,a\n',
    'iso8859-7': 'Η παραγγελία μου δεν έφτασε ακόμα βοηθήστε με,a\n',
    'cp850': 'Die Straße nach München führt schöne Fußgänger über Brücken,a\n',
    'mac-roman': 'L’été dernier à Paris c’était très bien et ça m’a coûté cher,a\n',
    'mac-turkish': 'Siparişim henüz gelmedi lütfen yardım edin teşekkürler,a\n',
    'utf-16': 'plain text,a\n',
    'utf-16-le': 'plain text,a\n',
    'utf-32': 'plain text,a\n',
}


@pytest.mark.parametrize('encoding', TEXTS)
def test_the_advice_about_an_encoding_works(encoding):
    content = 'text,label\n' + TEXTS[encoding] * 20
    with pytest.raises(UserError, match=r'a table.csv, line \d+: ') as caught:
        read('a table.csv', content.encode(encoding))
    named = re.search(r'--gin.ENCODING=([\w-]+)', str(caught.value))[1]
    (row, *_) = read('a table.csv', content.encode(encoding), Layout.of(None, None, named))
    assert f'{row["text"]},{row["label"]}\n' == TEXTS[encoding]
    command = re.search(r'iconv .*', str(caught.value))
    assert (command is None) == (encoding == 'mac-turkish')
    if command is not None:
        assert '-f latin1' not in command[0]
        subprocess.run(command[0], shell=True, check=True)
        converted = shlex.split(command[0])[-1]
        assert files.Path(converted).read_text(encoding='utf-8-sig') == content
        assert tables.read(converted, WANTED, 'TRAIN_FILES')[0].values['label'] == 'a'


def test_encodings_that_may_be_meant_are_shown_with_what_differs():
    with pytest.raises(UserError) as caught:
        read('t.csv', f'text,label\n{TEXTS["iso8859-2"] * 9}'.encode('iso8859-2'))
    message = str(caught.value)
    assert "looks like ISO-8859-2, in which the line reads 'Zażółć gęślą jaźń" in message
    assert "It may also be WINDOWS-1250, 'Zażółć gę¶l± jaĽń" in message
    # Both read the first forty characters alike.
    romanian = 'Comanda mea nu a ajuns încă după două luni, vă rog să mă ajutaţi, mulţumesc,a\n'
    with pytest.raises(UserError) as caught:
        read('t.csv', f'text,label\n{romanian * 9}'.encode('cp1250'))
    assert 'ISO-8859-16' in str(caught.value) and re.search(r"WINDOWS-1250, '[^']*ajutaţi", str(caught.value))


@pytest.mark.parametrize('encoding', TEXTS)
def test_every_reader_reads_the_encoding_that_is_named(encoding):
    text = TEXTS[encoding].partition(',')[0]
    layout = Layout.of(None, None, encoding)
    for name, content in {
        't.csv': f'text,label\r\n"{text}\u000a{text}",a\r\n',
        't.tsv': f'text\tlabel\n{text}\ta\n',
        't.jsonl': json.dumps({'text': text, 'label': 'a'}, ensure_ascii=False),
        't.json': json.dumps([{'text': text, 'label': 'a'}], ensure_ascii=False),
    }.items():
        expected = f'{text}\n{text}' if name == 't.csv' else text
        assert read(name, content.encode(encoding), layout) == [{'text': expected, 'label': 'a'}]
        assert read(name, content.encode(), layout) == [{'text': expected, 'label': 'a'}]  # UTF-8 all the same
    files.Path('t.conll').write_bytes(f'{text.split()[0]} B-X\nb O\n'.encode(encoding))
    assert conll.read('t.conll', 'TRAIN_FILES', encoding=encoding)[0].words == (text.split()[0], 'b')
    files.Path('t.txt').write_bytes(f'{text}\n{text}\n'.encode(encoding))
    (document, *_) = TextFiles('t.txt', 't.txt', layout=layout).examples('train')
    assert document['text'] == f'{text}\n{text}\n'
    assert [row.values['text'] for row in read_rows('t.txt', layout)] == [text, text]


def test_what_is_not_in_the_encoding_that_is_named_is_a_bad_row():
    content = '这家餐厅,a\n非常好,b\n'.encode('gbk')
    damaged = b'text,label\n' + content[:3] + b'\xff' + content[3:]
    layout = Layout.of(None, None, 'gbk')
    with pytest.raises(UserError, match=r'd.csv, line 2: character \d is not in the encoding gbk.*BAD_ROWS=bad.txt'):
        read('d.csv', damaged, layout)
    assert read('d.csv', damaged, layout, bad_rows='bad.txt') == [{'text': '非常好', 'label': 'b'}]
    with pytest.raises(UserError, match=r"ENCODING is 'shift-jiss'.*Did you mean shift_jis"):
        Layout.of(None, None, 'shift-jiss')
    with pytest.raises(UserError, match=r"ENCODING is 'base64', which is not an encoding"):
        Layout.of(None, None, 'base64')


def test_a_file_that_is_not_in_the_named_encoding_as_a_whole_is_one_message():
    content = 'text,label\n这家餐厅,a\n'.encode('gbk')
    with pytest.raises(UserError, match=r"u\.csv: UTF-16 stream does not start with BOM\. ENCODING is 'utf-16'"):
        read('u.csv', content, Layout.of(None, None, 'utf-16'))


def test_a_damaged_line_in_a_file_of_utf8_is_not_another_encoding():
    content = 'text,label\n' + 'schön,a\n' * 5
    with pytest.raises(UserError, match=r'line 7: byte 0xf6 is not UTF-8. Other lines are UTF-8.*BAD_ROWS') as caught:
        read('mixed.csv', content.encode() + b'sch\xf6n,b\n')
    assert 'iconv' not in str(caught.value)
    with pytest.raises(UserError, match=r'line 3: byte 0xe9 .*Other lines are UTF-8'):
        read('two.csv', 'text,label\nsch\xf6n,a\n'.encode() + b'caf\xe9,b\n')
    with pytest.raises(UserError, match=r'line 2: byte 0xc3 .*ends in the middle of a character'):
        read('cut.csv', 'text,label\nsch\xf6n'.encode()[:-2])
    with pytest.raises(UserError, match=r'line 2: byte 0xed .*half of a surrogate pair'):
        read('half.csv', b'text,label\nx \xed\xa0\xbd,a\n')
    with pytest.raises(UserError, match='Its encoding is not known here'):
        read('noise.csv', b'text,label\n' + bytes(range(128, 256)) * 3 + b',a\n')


def test_a_compressed_file_is_unpacked_by_the_advice():
    files.Path('t.csv.gz').write_bytes(gzip.compress(('text,label\n' + TEXTS['gb18030'] * 9).encode('gb18030')))
    with pytest.raises(UserError, match=r'gzip -dc t.csv.gz \| iconv') as caught:
        tables.read('t.csv.gz', WANTED, 'TRAIN_FILES')
    subprocess.run(re.search(r'gzip .*', str(caught.value))[0], shell=True, check=True)
    assert len(tables.read('t.utf8.csv', WANTED, 'TRAIN_FILES')) == 9


# Lines and columns.


def test_a_tab_separated_file_has_no_quoting_unless_asked_for():
    content = 'text\tlabel\n"Open at the start\ta\nin between\tb\nends in a quote"\ta\n'
    assert [row['text'] for row in read('t.tsv', content)] == ['"Open at the start', 'in between', 'ends in a quote"']
    quoted = 'text\tlabel\n"a\t""b""\tc\nd"\tx\n'
    with pytest.raises(UserError, match=r'line 2: 3 values.*--gin.QUOTING=True'):
        read('q.tsv', quoted)
    assert read('q.tsv', quoted, Layout(quoting=True)) == [{'text': 'a\t"b"\tc\nd', 'label': 'x'}]
    assert read('u.csv', 'text,label\n"a,x\n', Layout(quoting=False)) == [{'text': '"a', 'label': 'x'}]
    with pytest.raises(UserError, match=r'unexpected end of data.*--gin.QUOTING=False'):
        read('v.csv', 'text,label\n"a,x\n')
    with pytest.raises(UserError, match=r'w.csv, line 3: .*; the row that begins here goes on to line 4\. Close'):
        read('w.csv', 'text,label\nb,x\n"a,x\nc,y\n')


def test_texts_that_seem_to_be_quoted_are_said(caplog):
    assert read('t.tsv', 'text\tlabel\n"a"\tx\n"b"\ty\n')[0]['text'] == '"a"'
    assert '2 of 2 rows have texts in quotation marks' in caplog.text and '--gin.QUOTING=True' in caplog.text
    read('pandas.tsv', 'text\tlabel\nfirst\tx\n"a ""b"" c"\ty\nthird\tx\n')
    assert 'pandas.tsv: 1 of 3 rows have texts in quotation marks' in caplog.text
    read('spoken.tsv', 'text\tlabel\nfirst\tx\n"So," he said.\ty\n"Quite."\tx\n""Well""\tx\nlast\tx\n')
    assert 'spoken.tsv' not in caplog.text


def test_texts_that_begin_with_a_quotation_mark_only_are_said(caplog):
    for name, content, message in (
        ('open.tsv', 'text\tlabel\n"Open at the start\ta\nin between\tb\nthe end\ta\n',
         '1 of 3 rows have a text that begins with .*; the file cannot be read with --gin.QUOTING=True'),
        ('lines.tsv', 'text\nfirst\n"goes on\nhere"\nlast\n',
         '1 of 4 rows have a text that begins with .*; with --gin.QUOTING=True the file has 3 rows, which is right if'),
        ('inch.txt', 'a\tx\n"b\ty\n', 'inch.txt: 1 of 2 rows have'),
    ):  # fmt: skip
        layout = Layout(('text', 'label')) if name.endswith('.txt') else Layout()
        count = len(read(name, content, layout, wanted=()))
        assert re.search(message, caplog.text), caplog.text
        if match := re.search(rf'{name}: .*QUOTING=True the file has (\d+) rows', caplog.text):
            assert len(read(name, content, Layout(quoting=True), wanted=())) == int(match[1]) < count  # as it says
    read('peace.tsv', 'text\tlabel\n"So," he said.\tx\n6" nails\ty\n"Quite."\tx\na "b\tx\n')
    assert 'peace.tsv' not in caplog.text


FLAT = {'text': ['Ann', 'Ann', 'Bo'], 'answer_start': [0, 0, 5]}
ANSWERS = {
    'flat': FLAT,
    'a list of objects': [{'text': 'Ann', 'answer_start': 0}, {'text': 'Bo', 'answer_start': 5}],
    'texts': ['Ann', 'Bo'],
    'as JSON': json.dumps(FLAT),
    'as Python': str(FLAT),
}


@pytest.mark.parametrize('answers', ANSWERS.values(), ids=ANSWERS)
def test_flat_questions_are_read_as_nested_ones(answers):
    row = {'id': '1', 'question': 'who?', 'context': 'Ann, Bo', 'answers': answers}
    expected = {'answer': 'Ann', 'answers': ['Ann', 'Bo']}
    wanted = (('TARGET_TEMPLATE', 'answer'), ('REFERENCES_COLUMN', 'answers'))
    none = row | {'answers': {'text': [], 'answer_start': []}}
    first, second = read('t.jsonl', f'{json.dumps(row)}\n{json.dumps(none)}\n', wanted=wanted)
    assert first == row | expected and second['answer'] == 'unanswerable' and second['answers'] == ['unanswerable']
    parquet.write_table(pa.Table.from_pylist([row]), 't.parquet')
    tables.read.cache_clear()
    assert [r.values for r in tables.read('t.parquet', wanted, 'TRAIN_FILES')] == [row | expected]
    if isinstance(answers, str):
        cell = answers.replace('"', '""')
        assert read('t.csv', f'question,answers\nwho?,"{cell}"\n', wanted=wanted) == [{'question': 'who?'} | expected]
    own = row | {'answer': 'mine'}
    assert read('own.json', json.dumps([own]), wanted=wanted)[0]['answer'] == 'mine'


@pytest.mark.parametrize('answers', ['Ann', {'texts': ['Ann']}, [7], {'text': [None]}, '{"text": ', None])
def test_answers_in_another_form_are_left_as_they_are(answers):
    row = {'question': 'who?', 'answers': answers}
    assert read('t.jsonl', json.dumps(row), wanted=()) == [row]
    with pytest.raises(UserError, match="line 1: no column 'answer'"):
        read('t.jsonl', json.dumps(row), wanted=(('TARGET_TEMPLATE', 'answer'),))


@pytest.mark.parametrize(('name', 'mark'), [('t.csv', ','), ('t.tsv', '\t'), ('t.txt', '\t')])
def test_columns_name_a_file_without_a_header(name, mark):
    content = f'3{mark}A title{mark}A text.\n1{mark}B title{mark}B text.\n'
    layout = Layout(('label', 'title', 'text'))
    assert [row['label'] for row in read(name, content, layout)] == ['3', '1']
    with pytest.raises(UserError, match='line 1: 3 values, but COLUMNS names 2 columns'):
        read(name, content, Layout(('label', 'text')))
    assert len(read(f'h{name}', f'title{mark}text{mark}label\n' + content, layout)) == 2  # a header is none of the data


def test_columns_for_json_and_parquet():
    layout = Layout(('text', 'label'))
    expected = [{'text': 'a', 'label': 1}, {'text': 'b', 'label': 2}]
    assert read('t.jsonl', '["a", 1]\n["b", 2]\n', layout) == expected
    assert read('t.json', '[["a", 1], ["b", 2]]', layout) == expected
    parquet.write_table(pa.table({'0': ['a', 'b'], '1': [1, 2]}), 't.parquet')
    assert [row.values for row in tables.read('t.parquet', WANTED, 'TRAIN_FILES', layout)] == expected
    with pytest.raises(UserError, match=r'line 1: COLUMNS names .text., but this row has names of its own: t, l'):
        read('o.jsonl', '{"t": "a", "l": 1}', layout)
    with pytest.raises(UserError, match="COLUMNS names 'a' twice"):
        Layout.of(['a', 'a'], None)


@pytest.mark.parametrize(
    'line',
    ['3,Wall St. falls,"Shares fell, again."', 'I am still waiting on my card?,arrival', '2020-01-02,a,b', 'good,x'],
)
def test_a_header_that_looks_like_data_is_said(line, caplog):
    with pytest.raises(UserError, match=r"no column 'text'.*These look like data.*--gin.COLUMNS=") as caught:
        read('t.csv', f'{line}\n' * 5)
    names = tuple(ast.literal_eval(re.search(r'COLUMNS="(.*)"', str(caught.value))[1]))
    assert len(read('t.csv', f'{line}\n' * 5, Layout(names))) == 5  # the advice works
    assert read('t.csv', f'{line}\n' * 5, wanted=())
    assert 'looks like data' in caplog.text


@pytest.mark.parametrize('header', ['text,label', '0,1', ',text,label', 'question: what?,a label', 'Review Text,v1.2'])
def test_a_header_that_is_one_is_left_in_peace(header, caplog):
    cells = header.count(',')
    read('t.csv', f'{header}\n' + ''.join(f'text {i}{",x" * cells}\n' for i in range(5)), wanted=())
    read('years.csv', 'text,2019,label\na,1,x\n')
    assert 'looks like data' not in caplog.text


def test_columns_without_a_name_do_no_harm(caplog):
    assert read('t.csv', 'label,text,,,\nham,hello,,,\nspam,hi,,,\n')[1] == {'label': 'spam', 'text': 'hi'}
    assert read('u.csv', 'label,text\nham,hello,,\n') == [{'label': 'ham', 'text': 'hello'}]
    assert read('i.csv', ',label,text\n0,ham,hello\n') == [{'Unnamed: 0': '0', 'label': 'ham', 'text': 'hello'}]
    assert read('s.tsv', 'label\ttext\t\nham\thello\t\nspam\thi\n')[1]['text'] == 'hi'
    assert not caplog.text
    assert read('v.csv', 'label,text,,\nham,hello,more,\n') == [{'label': 'ham', 'text': 'hello'}]
    assert 'v.csv: 1 of 1 rows have values in columns without a name, which are ignored' in caplog.text
    with pytest.raises(UserError, match='line 2: 3 values, but the header has 2 columns'):
        read('w.csv', 'label,text\nham,hello,more\n')


@pytest.mark.parametrize(('suffix', 'mark'), [('.csv', ','), ('.tsv', '\t')])
def test_lines_of_a_mac_of_long_ago(suffix, mark):
    content = f'text{mark}label\ra{mark}b\rc{mark}d\r'
    with pytest.raises(UserError, match=r"carriage return inside a line.*tr '\\r' '\\n'"):
        read(f'mac{suffix}', content)
    assert len(read(f'new{suffix}', content.replace('\r', '\n'))) == 2


def test_another_separator_is_said():
    for layout in (Layout(), Layout(('text', 'label'))):
        with pytest.raises(UserError, match=r"columns (are|seem to be) separated by ';'"):
            read('t.csv', 'text;label\na;b\n' if layout.columns is None else 'a;b\n', layout)
    with pytest.raises(UserError, match=r"name its columns: --gin.COLUMNS=.*'text', 'label'"):
        read('t.txt', 'a\tb\n')


def test_json_lines_and_lists_whatever_they_are_called():
    rows = [{'text': f't{i}', 'label': 'ab'[i % 2]} for i in range(4)]
    lines = '\n'.join(map(json.dumps, rows)) + '\n'
    assert read('lines.json', lines) == rows and read('lines.JSONL', lines) == rows
    assert read('list.jsonl', json.dumps(rows)) == rows and read('pretty.jsonl', json.dumps(rows, indent=1)) == rows
    assert read('one.json', json.dumps(rows[0])) == rows[:1]
    with pytest.raises(UserError, match=r'lines.json, line 2, column .*: invalid JSON'):
        read('lines.json', lines.replace('"t1"', '"t1'))
    assert len(read('lines.json', lines.replace('"t1"', '"t1'), bad_rows='bad.txt')) == 3


@pytest.mark.parametrize(
    'value',
    [
        {'data': [{'paragraphs': 7}]},
        {'data': [{'paragraphs': [{'context': 'c', 'qas': [7]}]}]},
        {'data': [{'paragraphs': [{'context': 'c', 'qas': [{'question': 'q', 'answers': [{'text': []}]}]}]}]},
    ],
)
def test_squad_that_is_not_squad_is_one_message(value):
    with pytest.raises(UserError, match="SQuAD's format requires"):
        read('s.json', json.dumps(value), wanted=())


def test_advice_about_json_of_another_layout_works():
    rows = [['good', 'a'], ['bad one', 'b']]
    with pytest.raises(UserError, match=r'l.jsonl, line 1: expected an object .*found a list') as caught:
        read('l.jsonl', '\n'.join(map(json.dumps, rows)))
    columns = ast.literal_eval(re.search(r'COLUMNS="(.*)"', str(caught.value))[1])
    assert read('l.jsonl', '\n'.join(map(json.dumps, rows)), Layout(tuple(columns)))[0]['text'] == 'good'
    split = {'columns': ['text', 'label'], 'index': [0, 1], 'data': rows}  # pandas, orient='split'
    with pytest.raises(UserError, match=r'Name a list in it: s.json#data, with --gin.COLUMNS=') as caught:
        read('s.json', json.dumps(split))
    columns = ast.literal_eval(re.search(r'COLUMNS="(.*)"', str(caught.value))[1])
    found = tables.read('s.json#data', WANTED, 'TRAIN_FILES', Layout(tuple(columns)))
    assert [row.values for row in found] == [{'text': 'good', 'label': 'a'}, {'text': 'bad one', 'label': 'b'}]
    with pytest.raises(UserError, match=r"found an object without one.*orient='records'"):
        read('d.json', json.dumps({'text': ['good', 'bad'], 'label': ['a', 'b']}))
    with pytest.raises(UserError, match=r'3 values, but COLUMNS names 2 columns .*Name all columns, in their order'):
        read('n.csv', '1,a,b\n2,c,d\n', Layout(('label', 'text')))
