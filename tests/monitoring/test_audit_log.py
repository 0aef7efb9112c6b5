"""The audit log: appended to by one process, and a change is found."""

import hashlib
import json
import re

import pytest

from palm_jax.errors import UserError
from palm_jax.monitoring import audit_log
from palm_jax.monitoring.audit_log import AuditLog
from tests.support.programs import run_here


def test_lines_are_chained_and_continued(tmp_path):
    path = tmp_path / 'audit.jsonl'
    for number in range(2):
        with AuditLog(path) as log:
            log.add(f'text {number} ü', rule='r', score=0.5)
            log.add('same', rule='r')
    lines = path.read_bytes().splitlines()
    contents = list(audit_log.read(path))
    assert len(lines) == len(contents) == 4 and contents[0]['rule'] == 'r'
    assert contents[2]['sha256'] == hashlib.sha256('text 1 ü'.encode()).hexdigest()
    assert [c['previous'] for c in contents] == ['0' * 64, *(hashlib.sha256(line).hexdigest() for line in lines[:3])]
    assert b'text' not in path.read_bytes() and b'same' not in path.read_bytes()
    assert not (tmp_path / 'audit.jsonl.lock').exists()


def change(lines):
    content = json.loads(lines[1])
    return [lines[0], json.dumps(content | {'score': 0.1}), *lines[2:]]


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (change, 'line 3: a line before it was changed'),
        (lambda lines: [lines[0], *lines[2:]], 'line 2: a line before it'),
        (lambda lines: [lines[0], lines[0], *lines[1:]], 'line 2: a line before it'),
        (lambda lines: [*lines[:2], lines[2][:20]], 'line 3 is not a line of an audit log, or was cut'),
        (lambda lines: ['[1]', *lines], 'line 1 is not a line'),
    ],
)
def test_a_change_is_found(tmp_path, damage, message):
    path = tmp_path / 'audit.jsonl'
    with AuditLog(path) as log:
        for number in range(4):
            log.add(f'text {number}', score=0.9)
    path.write_text('\n'.join(damage(path.read_text().splitlines())) + '\n')
    with pytest.raises(UserError, match=message):
        list(audit_log.read(path))
    with pytest.raises(UserError, match=message):
        AuditLog(path)


def test_one_process_appends(tmp_path):
    with (
        AuditLog(tmp_path / 'audit.jsonl'),
        pytest.raises(UserError, match='name another file'),
    ):
        AuditLog(tmp_path / 'audit.jsonl')


def test_the_program_counts_rules_and_finds_a_text(tmp_path):
    path = tmp_path / 'audit.jsonl'
    missing = run_here('palm_jax.cli.audit_log', f'--input={path}')
    assert missing.returncode == 2 and 'does not exist: name the file of --audit=FILE' in missing.stderr
    (tmp_path / 'folder').mkdir()
    empty = run_here('palm_jax.cli.audit_log', f'--input={tmp_path / "folder"}')
    assert empty.returncode == 2 and 'folder is a folder: name the file of --audit=FILE.\n' in empty.stderr
    with AuditLog(path) as log:
        for text, rule, action in (('a', 'x', 'refused'), ('b', 'x', 'refused'), ('a', 'y', 'recorded')):
            log.add(text, action=action, rule=rule, version='1', model='m')
    flags = [f'--input={path}', f'--output={tmp_path / "found.json"}']
    shown = run_here('palm_jax.cli.audit_log', *flags, '--text=a').stdout
    folder = run_here('palm_jax.cli.audit_log', f'--input={tmp_path}')
    assert (
        folder.returncode == 2
        and f'is a folder: name the file of --audit=FILE. Did you mean --input={path}?' in folder.stderr
    )
    last = hashlib.sha256(path.read_bytes().splitlines()[-1]).hexdigest()
    assert f'3 lines, the hash of the last one is {last}' in shown
    found = json.loads((tmp_path / 'found.json').read_text())
    assert [(row['rule'], row['action'], row['lines']) for row in found['rules']] == [
        ('x', 'refused', 1), ('y', 'recorded', 1),
    ]  # fmt: skip
    assert [line['rule'] for line in found['found']] == ['x', 'y'] and '"rule": "y"' in shown
    assert re.search(r'x +1 +refused +m +2 ', run_here('palm_jax.cli.audit_log', *flags, '--rule=x').stdout)
    assert 'found      no line' in run_here('palm_jax.cli.audit_log', *flags, '--text=c').stdout
    wrong = run_here('palm_jax.cli.audit_log', *flags, '--rule=z')
    assert wrong.returncode == 2 and 'Rules that applied: x, y.' in wrong.stderr
    path.write_bytes(
        path.read_bytes().replace(b'"recorded"', b'"refused" ').replace(b'"model": "m"', b'"model": "n"', 1)
    )
    changed = run_here('palm_jax.cli.audit_log', *flags)
    assert changed.returncode == 2 and 'line 2: a line before it was changed' in changed.stderr
