"""Tables made from installed packages have the right content."""

import ast
import contextlib
import io
import json
import re
import statistics
import tokenize
from pathlib import Path

import pytest

from palm_jax.data.readers import conll
from palm_jax.data.registry import offline, stdlib
from palm_jax.errors import UserError

pytestmark = pytest.mark.usefixtures('offline_tables')


def rows(name):
    return [json.loads(line) for line in Path(offline.table(name)).read_text().splitlines()]


def source_of(module):
    return next(e['text'] for split in ('train', 'validation') for e in stdlib.examples(split) if e['name'] == module)


def test_a_summary_is_the_first_sentence_of_the_docstring_that_the_source_has_lost():
    found = rows('docstrings')
    assert len(found) > 1000
    for row in found[:: len(found) // 50]:
        (function,) = ast.parse(row['source']).body
        documented = [n for n in ast.walk(ast.parse(source_of(row['module']))) if isinstance(n, ast.FunctionDef)]
        of_that_name = [' '.join((ast.get_docstring(n) or '').split()) for n in documented if n.name == function.name]
        assert any(text.startswith(row['summary']) for text in of_that_name)
        assert ast.get_docstring(function) not in of_that_name


def test_a_function_has_lost_its_name():
    found = rows('function_names')
    assert len(found) > 1000
    for row in found:
        assert re.match(r'def _[\[(]', row['source']) and row['name'] == row['name'].lower()
    assert 'get optional release' in {row['name'] for row in found if row['module'] == '__future__.py'}


def test_tokens_have_the_types_that_the_tokenizer_gives_them():
    sentences = conll.read(offline.table('tokens'), 'TRAIN_FILES')
    assert len(sentences) > 1000 and {'O', 'B-OP', 'B-KEYWORD', 'B-STRING', 'B-NUMBER', 'B-COMMENT'} <= {
        tag for sentence in sentences for tag in sentence.tags
    }
    for sentence in sentences[:: len(sentences) // 300]:
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            first = next(tokenize.generate_tokens(io.StringIO(word).readline))
            name = tokenize.tok_name[first.type]
            expected = {'NAME': ('O', 'B-KEYWORD')}.get(name, (f'B-{name}',))
            assert tag in expected and first.string == word, (word, tag)


def test_a_session_is_what_python_answers():
    found = rows('sessions')
    assert len(found) > 50
    right = total = 0
    for row in found:
        names = dict(vars(statistics))
        for asked, told in zip(row['messages'][::2], row['messages'][1::2], strict=True):
            if row['module'] == 'statistics.py' and 'random' not in asked['text']:
                *lines, last = ast.parse(asked['text']).body
                exec(compile(ast.Module(lines, []), 'session', 'exec'), names)
                with contextlib.redirect_stdout(io.StringIO()) as answer:
                    exec(compile(ast.Interactive([last]), 'session', 'single'), names)
                total += 1
                right += answer.getvalue().rstrip('\n') == told['text']
    assert total > 10 and right > 0.9 * total, (right, total)
    for row in found:
        assert [m['role'] for m in row['messages']] == ['user', 'assistant'] * (len(row['messages']) // 2)


def test_names_are_cldrs():
    labels = {row['text']: row['label'] for row in rows('languages')}
    assert labels['Deutschland'] == 'de' and labels['Allemagne'] == 'fr' and 'Angola' not in labels
    assert set(labels.values()) == set(offline.LOCALES)
    translated = {(row['target'], row['name']): row['translation'] for row in rows('translations')}
    assert translated['German', 'Germany'] == 'Deutschland' and translated['Chinese', 'France'] == '法国'
    for row in rows('territories'):
        assert row['answer'] in row['context'] and row['territory'] in row['question']
    answers = {row['question']: row['answer'] for row in rows('territories')}
    assert answers['Which currency is used in Japan?'] == 'Japanese Yen'


def test_a_table_is_made_once_and_an_unknown_one_is_named():
    path = Path(offline.table('territories'))
    offline.table.cache_clear()
    before = path.stat().st_mtime_ns
    assert offline.table('territories') == str(path) and path.stat().st_mtime_ns == before
    with pytest.raises(UserError, match='Did you mean docstrings'):
        offline.table('docstring')
