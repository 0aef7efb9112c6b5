"""Triples as text: templates by relation, and the table as the existing sources of data read it."""

import json

import pytest

from palm_jax.data.readers.text_files import TextFiles
from palm_jax.data.registry import verbalized
from palm_jax.data.supervised.conversations import PairTable
from palm_jax.errors import UserError

LINES = ''.join(f'city{i}\tcapital_of\tland{i}\nland{i}\t/geo/borders\tland{i + 1}\n' for i in range(20))
TEMPLATES = {'capital_of': '{head} is the capital of {tail}.', '/geo/borders': 'Next to {tail} is {head}.'}


@pytest.fixture
def facts(tmp_path, monkeypatch):
    monkeypatch.setenv('PALM_JAX_CACHE', str(tmp_path / 'cache'))
    path = tmp_path / 'facts.tsv'
    path.write_text(LINES)
    return str(path)


def rows(path):
    with open(path, encoding='utf-8') as file:
        return [json.loads(line) for line in file]


def test_relations_have_templates_and_all_others_one(facts):
    first, second, *_ = rows(verbalized.table(facts, TEMPLATES))
    names = {'head': 'city0', 'relation': 'capital of', 'tail': 'land0'}
    text = {'text': 'city0 is the capital of land0.', 'input': 'city0 is the capital of', 'target': 'land0.'}
    assert first == names | text | {'source': f'{facts}, line 1'}
    assert (second['text'], second['input'], second['target']) == (
        'Next to land1 is land0.',
        'Next to land1 is',
        'land0.',
    )
    assert rows(verbalized.table(facts))[0]['text'] == 'city0 capital of land0.'
    assert rows(verbalized.table(facts, {'capital of': '{head}: {tail}'}, 'x {tail}'))[0]['text'] == 'city0: land0'


def test_the_table_is_read_by_what_reads_tables(facts):
    path = verbalized.table(facts, TEMPLATES)
    assert verbalized.table(facts, TEMPLATES) == path
    texts = {s: [e['text'] for e in TextFiles(path).examples(s)] for s in ('train', 'validation')}
    assert len(texts['train']) + len(texts['validation']) == 40 and texts['validation']
    pairs = PairTable(path).examples('train')
    assert any(pair.texts == ('city3 is the capital of', 'land3.') for pair in pairs)


@pytest.mark.parametrize(
    ('templates', 'default', 'message'),
    [
        ({'capital': '{head} {tail}'}, '{tail}', r"no triple has .* 'capital'.*Did you mean capital.of\?.*Relations: "),
        ({'capital_of': '{city} {tail}'}, '{tail}', r"TEMPLATES: the template '\{city\} \{tail\}' names \{city\}"),
        ({}, 'a fact', r'TRIPLE_TEMPLATE: .* names neither \{head\} nor \{tail\}'),
        ({}, '{head', r'TRIPLE_TEMPLATE'),
    ],
)  # fmt: skip
def test_a_template_that_fits_nothing_is_refused(facts, templates, default, message):
    with pytest.raises(UserError, match=message):
        verbalized.table(facts, templates, default)
