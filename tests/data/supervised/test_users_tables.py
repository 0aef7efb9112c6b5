"""Tables as users bring them, by kind of task: labels, templates, chats, tags."""

import itertools
import json
import re
import types

import numpy as np
import pytest

from palm_jax.configuration.flags import split_flags
from palm_jax.configuration.load import load
from palm_jax.data.readers import bad_rows, conll, tables
from palm_jax.data.supervised import messages
from palm_jax.data.supervised.conversations import Dialogues, PairTable
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.data.supervised.tagged_text import TaggedTable, TaggedText
from palm_jax.data.supervised.templates import Template
from palm_jax.errors import UserError
from palm_jax.labels.label_set import LabelSet
from palm_jax.labels.number import Number
from palm_jax.labels.single_label import SingleLabel
from palm_jax.metrics import entities
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def read_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for memo in (tables.read, conll.read, bad_rows.shared_bad_rows):
        memo.cache_clear()


def write(path, *rows):
    path.write_text('\n'.join(row if isinstance(row, str) else json.dumps(row) for row in rows) + '\n')
    tables.read.cache_clear()
    return str(path)


# Labels.


@pytest.mark.parametrize(
    ('name', 'rows'),
    [
        ('t.csv', ['text,label', 'a,x|y|', 'b,x', 'c,', 'd,|y']),
        (
            't.jsonl',
            [
                {'text': 'a', 'label': ['x', 'y']},
                {'text': 'b', 'label': 'x'},
                {'text': 'c', 'label': []},
                {'text': 'd', 'label': ['y', '']},
            ],
        ),
        (
            'n.jsonl',
            [
                {'text': 'a', 'label': 'y | x'},
                {'text': 'b', 'label': ['x']},
                {'text': 'c', 'label': None},
                {'text': 'd', 'label': 'y|y'},
            ],
        ),
    ],
)
def test_none_of_them_is_a_label_set_and_a_trailing_separator_is_nothing(tmp_path, name, rows):
    path = write(tmp_path / name, *rows)
    table = LabelledTable(path, path, kind=LabelSet())
    assert table.labels == ('x', 'y')
    assert [table.encode(e).tolist() for e in table.examples('train')] == [[1, 1], [1, 0], [0, 0], [0, 1]]


def test_a_table_without_any_label_is_one_message(tmp_path):
    path = write(tmp_path / 't.csv', 'text,label', 'a,', 'b,|')
    with pytest.raises(UserError, match="no row has a label in the column 'label'"):
        _ = LabelledTable(path, path, kind=LabelSet()).labels


@pytest.mark.parametrize('mark', [';', ', ', ' ; ', '/', '、', '|', ' '])
def test_cells_that_seem_to_hold_several_labels_are_said_with_the_binding(tmp_path, caplog, mark):
    names = ['joy', 'anger', 'fear', 'envy', 'awe']
    cells = [mark.join(itertools.compress(names, map(int, f'{i:05b}'))) for i in range(1, 32)]
    path = write(tmp_path / 't.jsonl', *({'text': f'row {i}', 'label': cell} for i, cell in enumerate(cells)))
    for kind, file in ((LabelSet(), ''), (SingleLabel(), '--gin_file=gin/heads/multilabel.gin ')):
        caplog.clear()
        LabelledTable(path, path, kind=kind).examples('train')
        if mark == '|' and not file:
            assert not caplog.text  # the default
            continue
        expected = '' if mark == '|' else rf'--gin.LABEL_SEPARATOR="(\'{mark.strip() or " "}\')"'
        found = re.search(rf'31 different labels .* Then the labels are 5: {(file + expected).rstrip()}', caplog.text)
        assert found, caplog.text
        if mark != '|':  # the advice works
            _, flags = split_flags([f'--gin.LABEL_SEPARATOR={found[1]}'])
            files = [str(ROOT / 'gin' / 'finetune_lora.gin'), str(ROOT / 'gin' / 'heads' / 'multilabel.gin')]
            given = load('loop.train', files, [*flags, ('TRAIN_FILES', path), ('INITIAL_CHECKPOINT_PATH', 'x')])
            separator = given.effective['LABEL_SEPARATOR'].value
            assert LabelledTable(path, path, kind=LabelSet(separator)).labels == tuple(sorted(names))


def test_vectors_of_zeros_and_ones_are_said(tmp_path, caplog):
    indices = write(tmp_path / 'i.jsonl', *({'text': f't{i}', 'label': [[0, 1], [1], []][i % 3]} for i in range(9)))
    pair = write(tmp_path / 'p.jsonl', *({'text': f't{i}', 'label': [[0, 1], [1, 0]][i % 2]} for i in range(9)))
    for path in (indices, pair):
        LabelledTable(path, path, kind=LabelSet()).examples('train')
    assert not caplog.text
    vectors = write(tmp_path / 'v.jsonl', *({'text': f't{i}', 'label': [i % 2, 0, 1]} for i in range(9)))
    LabelledTable(vectors, vectors, kind=LabelSet()).examples('train')
    assert 'whether it holds, [0, 0, 1], but are read as lists of names' in caplog.text


def test_names_that_are_one_label_are_left_in_peace(tmp_path, caplog):
    tables_ = {
        'blanks': ['card arrival', 'card delivery', 'lost card', 'top up'],
        'commas': ['Rain, light', 'Rain, heavy', 'Snow, light', 'Snow, heavy'],
        'paths': ['comp/graphics', 'comp/sys', 'rec/autos', 'rec/sport'],
        'lists': [['Smith, J', 'Doe, J'], ['Doe, J', 'Poe, J'], ['Doe, J'], ['Smith, J', 'Poe, J']],
        'joined': ['a, b|c, d', 'c, d', 'a, b', 'e|c, d'],
    }
    for name, labels in tables_.items():
        path = write(tmp_path / f'{name}.jsonl', *({'text': f't{i}', 'label': labels[i % 4]} for i in range(20)))
        kind = LabelSet() if name in ('lists', 'joined') else SingleLabel()
        LabelledTable(path, path, kind=kind).examples('train')
    assert not caplog.text


def test_nothing_to_hold_out_for_want_of_a_shared_class_is_said(tmp_path):
    path = write(tmp_path / 't.csv', 'text,label', *(f'text {i},"a{i};b{i}"' for i in range(12)))
    for kind in (LabelSet(), SingleLabel()):
        with pytest.raises(
            UserError, match='has 12 rows, each with a class that no other has, so that none can be held'
        ):
            LabelledTable(path, kind=kind).examples('train')
    with pytest.raises(UserError, match="separator is ''; it must be not empty"):
        LabelSet('')


def test_a_list_is_not_one_label_and_a_number_not_a_text(tmp_path):
    path = write(
        tmp_path / 't.jsonl', {'text': 'a', 'label': ['x', 'y']}, {'text': 'b', 'label': 1}, {'text': 7, 'label': 2}
    )
    with pytest.raises(UserError, match=r"t.jsonl, line 1: the column 'label' holds a list .*multilabel.gin"):
        LabelledTable(path, path).examples('train')
    (kept,) = LabelledTable(path, path, bad_rows='bad.txt').examples('train')
    assert (kept.text, kept.label) == ('b', '1')
    written = (tmp_path / 'bad.txt').read_text().splitlines()
    assert len(written) == 2 and "line 3: the column 'text' holds a number (7); it must hold a text" in written[1]


def test_null_and_na_are_texts_and_labels(tmp_path):
    path = write(tmp_path / 't.csv', 'text,label', 'null,NA', 'NA,null', 'nan,None')
    table = LabelledTable(path, path)
    assert [e.text for e in table.examples('train')] == ['null', 'NA', 'nan'] and table.labels == ('NA', 'None', 'null')


@pytest.mark.parametrize('label', ['1e39', '-4e38', '9' * 5000, '1_000', '1,5', True, [1], None])
def test_a_number_that_the_model_cannot_learn_is_refused(tmp_path, label):
    path = write(tmp_path / 't.jsonl', {'text': 'a', 'label': label})
    with pytest.raises(UserError, match=r't.jsonl, line 1: .{0,200}\nTo skip and list such rows: --gin.BAD_ROWS='):
        LabelledTable(path, path, kind=Number()).examples('train')


def test_a_table_without_a_header_for_a_head(tmp_path):
    path = write(tmp_path / 't.txt', *(f'{"ab"[i % 2]}\t"text {i}' for i in range(4)))
    data = LabelledText(LabelledTable(path, path, columns=['label', 'text']), {'inputs': 16}, 'bytes')
    assert data.labels == ('a', 'b') and data.table.examples('train')[0].text == '"text 0'
    assert data.layout.columns == ('label', 'text')
    with pytest.raises(UserError, match='the text: character 2 is'):
        data.inputs([('x\ud83d', None)])


# Templates.


def test_a_row_is_empty_when_its_filled_template_is(tmp_path):
    rows = [{'instruction': f'do {i}', 'input': '' if i % 3 else 'this', 'output': f'done {i}'} for i in range(9)]
    (tmp_path / 'alpaca.json').write_text(json.dumps(rows))
    table = PairTable('alpaca.json', 'alpaca.json', '{instruction}\n{input}', '{output}')
    assert [c.turns[0].text for c in table.examples('train')][:2] == ['do 0\nthis', 'do 1\n']
    path = write(
        tmp_path / 'n.jsonl',
        {'a': None, 'b': ' ', 'c': 1},
        {'a': 'x', 'b': None, 'c': ''},
        {'a': '', 'b': 'y', 'c': 2.5},
    )
    with pytest.raises(UserError, match=r"line 1: INPUT_TEMPLATE = '\{a\}: \{b\}' is empty"):
        PairTable(path, path, '{a}: {b}', '{c}').examples('train')
    table = PairTable(path, path, '{a}: {b}', '{c}', bad_rows='bad.txt')
    assert [[turn.text for turn in c.turns] for c in table.examples('train')] == [[': y', '2.5']]
    assert "line 2: the column 'c' is empty" in (tmp_path / 'bad.txt').read_text()


@pytest.mark.parametrize(
    ('template', 'message'),
    [
        ('{7}', r"no column '7', which TARGET_TEMPLATE = '\{7\}' names. Columns: a b, c.d, x:y, l"),
        ('{}', 'has empty braces'),
        ('{0', 'Put column names in braces'),
        ('{l}', "the column 'l' holds a list"),
        ('{answers}', r"the column 'answers' holds a list.* Its first text is \{answer\}"),
        ('{nothing}', "no column 'nothing'"),
        ('{c.e}', r"no column 'c.e'.* Did you mean c.d\?"),
    ],
)
def test_a_bad_template_is_one_message(template, message):
    row = {'a b': 'A', 'c.d': 'C', 'x:y': 'X', 'l': ['L']}
    if template == '{answers}':
        row = {'answer': 'A', 'answers': ['A', 'B']}
    with pytest.raises(UserError, match=message):
        Template(template, 'TARGET_TEMPLATE').fill(row, 'f, line 1')


def test_a_template_takes_any_name_of_a_column():
    row = {'a b': 'A', 'c.d': '{0}', 'x:y': 3, 'e!r': True}
    assert Template('{a b}{c.d} {{{x:y}}} {e!r} {1}', 'INPUT_TEMPLATE').fill(row) == 'A{0} {3} true {0}'
    with pytest.raises(UserError, match=r'line 1: character 2 is'):
        Template('{a}', 'INPUT_TEMPLATE').fill({'a': 'x\ud83d'}, 'f, line 1')


# Chats.


def chat(*messages_, **more):
    return {'messages': [{'role': role, 'content': text} | extra for role, text, extra in messages_]} | more


def read(tmp_path, *rows, **options):
    path = write(tmp_path / 'chat.jsonl', *rows)
    return [tuple(c.turns) for c in Dialogues(path, path, **options).examples('train')]


def test_the_layout_of_sharegpt(tmp_path):
    row = {'conversations': [{'from': 'human', 'value': 'hello'}, {'from': 'GPT', 'value': 'hi'}], 'system': 'be kind'}
    assert read(tmp_path, row) == [(('be kind', False, 'system'), ('hello', False, 'user'), ('hi', True, 'assistant'))]


def test_parts_of_text_are_one_text(tmp_path):
    parts = [{'type': 'text', 'text': 'hello '}, {'type': 'text', 'text': 'there'}]
    row = chat(('developer', '', {}), ('user', parts, {}), ('assistant', 'hi', {'weight': 1}))
    assert read(tmp_path, row) == [(('hello there', False, 'user'), ('hi', True, 'assistant'))]


@pytest.mark.parametrize('mark', [{'weight': 0}, {'train': False}, {'loss': False}, {'weight': 0.0}, {'training': 0}])
def test_what_is_not_to_be_learned_is_read_only(tmp_path, mark):
    row = chat(('user', 'q1', {}), ('assistant', 'bad', mark), ('user', 'q2', {}), ('assistant', 'good', {}))
    assert read(tmp_path, row) == [
        (('q1', False, 'user'), ('bad', False, 'assistant'), ('q2', False, 'user'), ('good', True, 'assistant'))
    ]


CALL = {'tool_calls': [{'id': 'c', 'type': 'function', 'function': {'name': 'now', 'arguments': '{}'}}]}
REFUSED = {
    'calls': (
        chat(('user', 'q', {}), ('assistant', None, CALL), ('assistant', 'noon', {})),
        'message 2: calls of tools',
    ),
    'role of calls': (chat(('user', 'q', {}), ('function_call', 'now()', {})), 'message 2: calls of tools'),
    'null': (chat(('user', 'q', {}), ('assistant', None, {})), 'message 2: the message has no text, `content` is null'),
    'empty': (chat(('user', 'q', {}), ('assistant', ' ', {})), 'message 2: the message is empty'),
    'picture': (
        chat(('user', [{'type': 'image_url', 'image_url': {}}], {}), ('assistant', 'a', {})),
        'but "image_url"',
    ),
    'weight': (chat(('user', 'q', {}), ('assistant', 'a', {'weight': 0.5})), '`weight` is 0.5; it must be 1'),
    'none learned': (chat(('user', 'q', {}), ('assistant', 'a', {'weight': 0})), 'no message is a reply to be learned'),
    'no role': (
        {'messages': [{'role': 'user', 'content': 'q'}, {'content': 'a'}]},
        'message 2: the message has no role',
    ),
    'object': (chat(('user', {'a': 1}, {}), ('assistant', 'a', {})), 'message 1: the message is an object, not a text'),
    'pairs': (
        {'prompt': 'q', 'completion': 'a'},
        r'no column `messages` or `conversations`. Columns: prompt, completion',
    ),
    'mask': (chat(('user', 'q', {}), ('assistant', 'a', {'mask': 1})), '`mask` is not supported; `weight: 0` marks'),
    'bad row': (chat(('user', 'q', {}), ('assistant', 'a', {}), weight=0), 'the `weight` of the transcript is 0'),
    **{
        f'message {key}': (chat(('user', 'q', {}), ('assistant', 'a', {key: value})), f'`{key}` is .* may say that the')
        for key, value in (
            ('loss_weight', 0),
            ('train_on_turn', False),
            ('learn', False),
            ('ignore', True),
            ('skip', 1),
            ('is_masked', True),
            ('exclude_from_loss', True),
            ('Trainable_', 0.0),
            ('rejected', True),
            ('no_train', True),
            ('do_not_learn', 1),
            ('exclude', 'true'),
            ('loss_weight', '0'),
            ('loss_weights', [1, 0]),
            ('deleted', True),
        )
    },
    **{
        f'row {key}': (chat(('user', 'q', {}), ('assistant', 'a', {}), **{key: value}), f'`{key}` is .* not to be le')
        for key, value in (
            *(('train', False), ('loss', 0), ('skip', True), ('learnable', False), ('is_excluded', True)),
            *(('train', 'False'), ('weights', [0, 1]), ('loss_mask', [0, 1]), ('do_not_train', 'yes')),
        )
    },
    'KTO': (chat(('user', 'q', {}), ('assistant', 'a', {}), label=False), '`label` is false'),
    'half': ('{"messages": [{"content": "\\ud83d"}, {"content": "a"}]}', 'character 1 is'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_cannot_be_learned_is_refused_by_name(tmp_path, name):
    row, message = REFUSED[name]
    with pytest.raises(UserError, match=f'chat.jsonl, line 1.*{message}'):
        read(tmp_path, row)
    good = chat(('user', 'q', {}), ('assistant', 'a', {}))
    assert len(read(tmp_path, row, good, bad_rows='bad.txt')) == 1  # what the messages advise


def test_what_says_nothing_about_learning_is_ignored(tmp_path):
    more = {
        'train': True, 'loss': 2.5, 'skip': False, 'masked': False, 'training_set': 'a', 'trainer': None, 'score': 0,
        'rejected': [{'role': 'assistant', 'content': 'no'}], 'losses': [0], 'weights': 'none', 'unmask': True,
    }  # fmt: skip
    marks = {'loss_weight': 1, 'ignored': False, 'prefix': True, 'learned': 1, 'trained_by': 'me', 'is_masked': None}
    row = chat(('user', 'q', {'skip': 'no'}), ('assistant', 'a', marks), **more)
    assert read(tmp_path, row) == [(('q', False, 'user'), ('a', True, 'assistant'))]


def test_the_history_of_a_user_is_read_as_training_reads_it():
    parts = [{'type': 'text', 'text': 'hello'}]
    for given in ('hello', ['hello'], [{'role': 'user', 'content': parts}], [{'from': 'human', 'value': 'hello'}]):
        assert messages.history(given) == (('hello', False, 'user'),)
    for given in ({'messages': '[{"content": "hello"}]'}, {'conversations': [{'value': 'hello'}], 'system': ''}):
        assert Dialogues(None).prompt_turns(given) == (('hello', False, 'user'),)
    given = [
        'q',
        'a',
        {'from': 'human', 'value': 'r'},
        {'role': 'tool', 'content': 't'},
        'a',
        {'content': 'the newest'},
    ]
    roles = ['assistant', 'user', 'user', 'tool', 'assistant', 'user']  # without one, by the distance from the newest
    assert [turn.role for turn in messages.history(given)] == roles
    for given in ([], [''], None, 7, {'text': 'x'}, [{'role': 'user'}], [{'content': 'a\0'}]):
        with pytest.raises(UserError):
            Dialogues(None).prompt_turns(given)


# Tags.


class Forgetful:
    """A vocabulary that has nothing for blanks, as many of SentencePiece's."""

    start_ids = (0,)

    def encode(self, text):
        return [3 + ord(c) % 50 for c in text if not c.isspace()]

    def decode(self, ids):
        return str(list(ids))


def test_a_word_without_tokens_has_a_position_of_its_own(tmp_path, monkeypatch):
    (tmp_path / 't.conll').write_text('\u3000 O\n李 B-NAME\n\u3000 O\n来 O\n\u2003 S-NAME\n')
    data = TaggedText(TaggedTable('t.conll', 't.conll'), {'inputs': 16}, 'bytes', separator='')
    monkeypatch.setattr(TaggedText, 'vocabulary', Forgetful())
    _, (ends,) = data.inputs([['\u3000', '李', '\u3000', '来', '\u2003']])
    assert ends == [1, 2, 3, 4, 5]
    features = data.encode('train')
    places = np.flatnonzero(features['label_weights'][0])
    assert [data.labels[i] for i in features['labels'][0, places]] == ['O', 'B-NAME', 'O', 'O', 'S-NAME']
    with pytest.raises(UserError, match='word 2: character 1'):
        data.inputs([['a', '\ud83d']])


def test_names_of_tags_may_have_other_letters():
    assert TaggedTable(None, names=['O', 'B-X', 'M-X', 'E-X']).labels == ('O', 'B-X', 'I-X', 'E-X')


def test_reports_join_the_words_as_the_data_does():
    from palm_jax.reports import tags

    sentence = types.SimpleNamespace(words=('李', '小', '来'), tags=('B-NAME', 'I-NAME', 'O'))
    (row,) = tags.measurements(0.5, [sentence], [['B-NAME', 'I-NAME', 'O']], separator='').predictions
    assert (row['text'], row['label'], row['predicted']) == ('李小来', ['NAME: 李小'], ['NAME: 李小'])


@pytest.mark.parametrize(
    'tags',
    [
        ('B-X', 'I-X', 'B-X', 'O', 'B-Y', 'I-Y', 'I-Y'),  # BIO
        ('I-X', 'I-X', 'B-X', 'O', 'I-Y', 'I-Y', 'I-Y'),  # IOB1
        ('B-X', 'E-X', 'S-X', 'O', 'B-Y', 'I-Y', 'E-Y'),  # BIOES
        ('B-X', 'E-X', 'S-X', 'O', 'B-Y', 'M-Y', 'E-Y'),  # BMES
        ('B-X', 'L-X', 'U-X', 'O', 'B-Y', 'I-Y', 'L-Y'),  # BILOU
    ],
)
def test_every_scheme_gives_the_same_entities(tmp_path, tags):
    (tmp_path / 't.conll').write_text(''.join(f'w{i} {tag}\n' for i, tag in enumerate(tags)))
    table = TaggedTable('t.conll', 't.conll')
    (sentence,) = table.examples('train')
    assert entities.decode(sentence.tags) == [('X', 0, 2), ('X', 2, 3), ('Y', 4, 7)]
    assert set(sentence.tags) <= set(table.labels) and not {tag[0] for tag in table.labels} & set('MLUW')


def test_what_is_not_read_of_a_transcript_is_said_once(caplog):
    messages._warn_not_read.cache_clear()
    turns = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b', 'reasoning_content': 'because'}]
    for _ in range(2):
        assert [turn.text for turn in messages.transcript(turns, 'x.jsonl, line 1')] == ['a', 'b']
        messages.check_row({'messages': turns, 'tools': [{'name': 'f'}]}, 'x.jsonl, line 1')
    assert sorted(record.args[0] for record in caplog.records) == ['reasoning_content', 'tools']
