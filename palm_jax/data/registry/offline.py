"""Tables made from installed packages, available on every machine without a download.

From the source of Python's standard library: functions with their docstring and name, tokens with their
types, interactive sessions. From Unicode's CLDR, which Babel includes: names of territories, languages and
currencies in many languages, and questions about them.
"""

from __future__ import annotations

import ast
import collections
import doctest
import functools
import io
import itertools
import json
import keyword
import re
import tokenize
from collections.abc import Callable, Iterator
from typing import Literal

import babel
from babel.languages import get_official_languages
from babel.numbers import get_territory_currencies
from tqdm import tqdm

from palm_jax.cache_directory import cache_dir
from palm_jax.data.readers.splits import SPLITS
from palm_jax.data.registry import stdlib
from palm_jax.errors import UserError, closest

LOCALES = (
    *('en', 'de', 'fr', 'es', 'it', 'pt', 'nl', 'sv', 'pl', 'cs', 'ru', 'uk', 'el'),
    *('tr', 'ar', 'he', 'hi', 'ta', 'th', 'vi', 'id', 'sw', 'zh', 'ja', 'ko'),
)
_BLOCKS = ('body', 'cases', 'handlers', 'orelse', 'finalbody')  # fields that hold statements, in Python's order
_LONGEST = 1_200  # characters of a function's source at most

Kind = Literal['jsonl', 'conll']


@functools.cache
def table(name: str) -> str:
    """Return the path of a table, for TRAIN_FILES; it is built on first use and cached.

    Args:
      name: `docstrings` {source, summary, module}, `function_names` {source, name, module},
        `tokens` (CoNLL: Python's tokens and their types), `sessions` {messages, module},
        `languages` {text, label}, `translations` {kind, target, name, translation},
        `territories` {question, context, answer, territory}.

    Raises:
      UserError: if there is no such table.
    """
    if name not in TABLES:
        raise UserError(f'offline.table.name = {name!r}.{closest(name, TABLES)} Tables: {", ".join(TABLES)}.')
    kind, cache_key, rows = TABLES[name]
    path = cache_dir() / 'offline' / f'{name}_{cache_key()}.{kind}'
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix('.unfinished')
        with unfinished.open('w', encoding='utf-8') as file:
            for row in tqdm(rows(), desc=f'building the table {name}', unit=' rows', leave=False):
                file.write(row if kind == 'conll' else json.dumps(row, ensure_ascii=False) + '\n')
        unfinished.rename(path)
    return str(path)


# The standard library.


def _modules() -> Iterator[tuple[str, str]]:
    for split in SPLITS:
        for example in stdlib.examples(split):
            yield example['name'], example['text']


def _documented() -> Iterator[tuple[str, ast.AST, str]]:
    """Yield (module, node, docstring) of everything with a docstring."""
    for module, text in _modules():
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue  # a template, or for another version of Python
        for node in _statements(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node)
                if docstring:
                    yield module, node, docstring


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield a module and its statements in the order of `ast.walk`, without the expressions, which are most nodes."""
    waiting: collections.deque[ast.AST] = collections.deque([tree])
    while waiting:
        node = waiting.popleft()
        blocks = (getattr(node, name, ()) for name in _BLOCKS if name in node._fields)
        waiting.extend(itertools.chain.from_iterable(blocks))
        yield node


def _functions() -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """Yield (module, function without its docstring, docstring) of functions with more than a docstring."""
    for module, node, docstring in _documented():
        if isinstance(node, ast.FunctionDef) and len(node.body) > 1:
            node.body, node.decorator_list = node.body[1:], []
            yield module, node, docstring


def _short_source(function: ast.FunctionDef) -> str:
    """Return the source of a function, or '' if it is too long for a table."""
    source = ast.unparse(function)
    return source if len(source) <= _LONGEST else ''


def docstrings() -> Iterator[dict[str, str]]:
    """Yield the source of functions with the first sentence of their docstring."""
    for module, node, docstring in _functions():
        paragraph = ' '.join(docstring.split('\n\n')[0].split())
        summary = re.split(r'(?<=[.!?]) ', paragraph)[0]
        if 10 <= len(summary) <= 200 and (source := _short_source(node)):
            yield {'source': source, 'summary': summary, 'module': module}


def function_names() -> Iterator[dict[str, str]]:
    """Yield the source of functions without their name, with the words of the name."""
    for module, node, _ in _functions():
        name, node.name = node.name, '_'
        words = re.findall(r'[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])', name)
        if words and not name.startswith('__') and (source := _short_source(node)):
            yield {'source': source, 'name': ' '.join(words).lower(), 'module': module}


def tokens(every: int = 16) -> Iterator[str]:
    """Yield every `every`-th line of code as a CoNLL sentence: names are O, other tokens B- and their type."""
    number = 0
    for _, text in _modules():
        try:
            file_tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        except (tokenize.TokenError, SyntaxError):
            continue
        lines: dict[int, list[tuple[str, str]]] = {}
        for token in file_tokens:
            if token.string.strip() and token.type != tokenize.ENDMARKER:
                kind = 'KEYWORD' if keyword.iskeyword(token.string) else tokenize.tok_name[token.type]
                # From 3.12 on an f-string is several tokens; lines with one, or with a part of a string, are skipped.
                whole = token.start[0] == token.end[0] and '\t' not in token.string and 'FSTRING' not in kind
                tag = 'O' if kind == 'NAME' else f'B-{kind}'
                lines.setdefault(token.start[0], []).append((token.string, tag if whole else ''))
        for line in lines.values():
            number += 1
            if number % every == 0 and len(line) > 2 and all(tag for _, tag in line):
                yield ''.join(f'{word}\t{tag}\n' for word, tag in line) + '\n'


def sessions() -> Iterator[dict[str, object]]:
    """Yield interactive sessions of docstrings as conversations: the user's input and Python's output."""
    parser = doctest.DocTestParser()
    for module, _, docstring in _documented():
        try:
            examples = parser.get_examples(docstring)
        except ValueError:
            continue
        messages: list[dict[str, str]] = []
        typed = ''
        for example in examples:
            typed += example.source
            if example.want and example.exc_msg is None:
                messages.append({'role': 'user', 'text': typed.strip()})
                messages.append({'role': 'assistant', 'text': example.want.strip()})
                typed = ''
        if messages and all(message['text'] for message in messages):
            yield {'messages': messages, 'module': module}


# Unicode's CLDR.


def _names(locale: babel.Locale) -> dict[str, dict[str, str]]:
    return {
        'territory': {c: n for c, n in locale.territories.items() if len(c) == 2 and c.isalpha()},
        'language': {c: n for c, n in locale.languages.items() if '_' not in c},
        'currency': dict(locale.currencies.items()),
    }


def languages() -> Iterator[dict[str, str]]:
    """Yield names of territories, languages and currencies that are of one language, with that language."""
    labels: dict[str, set[str]] = {}
    for code in LOCALES:
        for names in _names(babel.Locale(code)).values():
            for name in names.values():
                labels.setdefault(name, set()).add(code)
    for name, codes in labels.items():
        if len(codes) == 1 and any(c.isalpha() for c in name):
            yield {'text': name, 'label': next(iter(codes))}


def translations() -> Iterator[dict[str, str]]:
    """Yield English names with their translations; `target` is the English name of the language."""
    english = babel.Locale('en')
    of_english = _names(english)
    for code in ('de', 'fr', 'es', 'zh', 'ru'):
        language = english.languages[code]
        for kind, names in _names(babel.Locale(code)).items():
            for key, translation in names.items():
                name = of_english[kind].get(key)
                if name and name != translation:
                    yield {'kind': kind, 'target': language, 'name': name, 'translation': translation}


def territories() -> Iterator[dict[str, str]]:
    """Yield questions about the currency, language and code of territories, with context and answer."""
    english = babel.Locale('en')
    for code, territory in _names(english)['territory'].items():
        currencies = [english.currencies.get(c, c) for c in get_territory_currencies(code)]
        official = [english.languages.get(c, c) for c in get_official_languages(code)]
        facts = [('Which currency is used in {}?', 'People pay with the {}.', currencies[0])] if currencies else []
        if official:
            facts.append(('Which language is official in {}?', 'The official language is {}.', official[0]))
        facts.append(('What is the code of {}?', '', code))
        context = ' '.join(
            [f'{territory}.', *(fact.format(answer) for _, fact, answer in facts if fact), f'Its code is {code}.']
        )
        for question, _, answer in facts:
            yield {
                'question': question.format(territory),
                'context': context,
                'answer': answer,
                'territory': territory,
            }


def _babel_version() -> str:
    return babel.__version__


TABLES: dict[str, tuple[Kind, Callable[[], str], Callable[[], Iterator]]] = {
    'docstrings': ('jsonl', stdlib.cache_key, docstrings),
    'function_names': ('jsonl', stdlib.cache_key, function_names),
    'tokens': ('conll', stdlib.cache_key, tokens),
    'sessions': ('jsonl', stdlib.cache_key, sessions),
    'languages': ('jsonl', _babel_version, languages),
    'translations': ('jsonl', _babel_version, translations),
    'territories': ('jsonl', _babel_version, territories),
}
