"""The worst of what is not plain technical English stays out of code, documents, gin files, pages and notebooks.

A finding names the phrase that the field uses instead; CONTRIBUTING.md has the list for people. Text between
`language: off` and `language: on` (in a comment of its file) is left out: it quotes what is banned.
"""

import ast
import collections
import re
import subprocess
import textwrap

import pytest

from tests.support.paths import ROOT

SUFFIXES = ('.py', '.md', '.gin', '.html', '.ipynb')
NOT_CHECKED = ('tests/test_language.py', 'tests/goldens/', 'LICENSE')

_ENGLISH = 'longer|more|less|fewer|later|better|worse|other|one'  # which may follow `is no`
# (what is banned, what to write instead); without regard to upper and lower case, also across line ends.
BANNED = [
    (rf'(?<!there\s)\b(?:is|are|was|were) no (?!(?:{_ENGLISH})\b)[a-z]+', 'is not a ...'),
    (r'\bbehind (?:rows?|the|a|an|every|each|it|them|where|which|that|those|tokens?|row)\b', 'after'),
    (r'\bas of `', 'see `...`, or: same as for `...`'),
    (r'\bso many\b', 'the number of ..., or: this many'),
    (r'\b(?:is|are|was|were|be|been) told\b', 'receives, is reported, is notified'),
    (r'\banew\b', 'again, or: from scratch'),
    (r'\bmend(?:s|ed|ing)?\b', 'fix'),
    (r'\byard\s?sticks?\b', 'baseline'),
    (r'\bmust not be there\b', 'must not exist'),
    (r'\bstands? (?:alone|in the|in a|where|beside|before|behind)\b', 'is (in), precedes, is standalone'),
    (r'\b(?:lies|lie) (?:in|at|on|there|beside|below|where)\b', 'is (in)'),
    (r'\bhave not (?:a|an|any)\b|\bhas not (?:a|an|any|all)\b|, which [A-Za-z]+ has not\b', 'does not have'),
    (r'\bwhere that is (?:one|none)\b', 'if there is one'),
    (r'\bto go on\b|\bgoes on (?:where|from|with)\b', 'to continue, resumes'),
]
# An entry of Args:, Attributes: or Returns: must stand alone: no genitive fragment.
ENTRY = re.compile(r'^([a-z_][\w, *]*): (of|as) ', re.MULTILINE)
SECTIONS = re.compile(r'^( *)(?:Args|Attributes):\n((?:\1 +.*\n|\n)+)', re.MULTILINE)
OFF = re.compile(r'language: off.*?language: on', re.DOTALL)


def files():
    """Files of the repository, tracked or new, that are checked."""
    listed = subprocess.run(
        ['git', 'ls-files', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.split('\n')  # fmt: skip
    names = listed if any(listed) else [p.relative_to(ROOT).as_posix() for p in ROOT.rglob('*')]
    names = [name for name in sorted(set(names)) if name.endswith(SUFFIXES) and not name.startswith(NOT_CHECKED)]
    return [name for name in names if (ROOT / name).is_file()]


def fragments(text):
    """(line, entry) of docstring entries that begin with a genitive."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node)
        for _, body in SECTIONS.findall(f'{docstring}\n') if docstring else ():
            for name, first in ENTRY.findall(textwrap.dedent(body)):
                yield getattr(node, 'lineno', 1), f'{name}: {first} ...'


def findings(name):
    """(line, what is there, what to write instead) of a file."""
    text = (ROOT / name).read_text()
    checked = OFF.sub(lambda match: re.sub(r'[^\n]', ' ', match[0]), text)
    found = [
        (checked.count('\n', 0, match.start()) + 1, ' '.join(match[0].split()), instead)
        for pattern, instead in BANNED
        for match in re.finditer(pattern.replace(' ', r'\s+(?:#\s+)?'), checked, re.IGNORECASE)
    ]
    if name.endswith('.py'):
        found += [(line, entry, 'a noun phrase that stands alone') for line, entry in fragments(text)]
    return sorted(found)


def test_the_language_is_plain_technical_english():
    wrong = {name: found for name in files() if (found := findings(name))}
    folders = collections.Counter()
    for name, found in wrong.items():
        folders['/'.join(name.split('/')[:2]) if '/' in name else name] += len(found)
    lines = [f'{name}:{line}: "{what}"; write: {but}' for name, found in wrong.items() for line, what, but in found]
    counts = '\n'.join(f'{count:5} {folder}' for folder, count in folders.most_common())
    assert not lines, f'{len(lines)} phrases:\n' + '\n'.join(lines) + f'\n\n{counts}'


@pytest.mark.parametrize(
    'text, expected',
    [
        ('this is no number', 1),
        ('this is no longer a number, and there is no\nreason', 0),
        ('no text behind the\n# comma', 1),
        ('as of `write`', 1),
        ('so\nmany steps', 1),
        ('the loop is told', 1),
        ('<!-- language: off --> anew <!-- language: on --> again', 0),
        ('recommend it, there is no other way', 0),
    ],
)
def test_a_phrase_is_found(text, expected, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), 'ROOT', tmp_path)
    (tmp_path / 'a.md').write_text(text)
    assert len(findings('a.md')) == expected


def test_a_fragment_is_found():
    docstring = 'Draw.\n\n    Args:\n      seed: of the shuffling.\n      rate: share of tokens.\n'
    code = f'def f(seed, rate):\n    """{docstring}    """\n'
    assert [entry for _, entry in fragments(code)] == ['seed: of ...']
