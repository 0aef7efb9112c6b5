"""Rows that rules remove from tables: what stays, what the log says, and what the program writes."""

import csv
import hashlib
import json

from palm_jax.monitoring import audit_log
from tests.support.programs import run_here

RULES = [
    {'name': 'insults', 'words': ['idiot'], 'of': 'output'},
    {'name': 'numbers', 'pattern': '[0-9]{4}', 'action': 'record'},
    {'name': 'shouting', 'pattern': '!!!'},
]


def filtered(tmp_path, source, output, *flags):
    (tmp_path / 'rules.json').write_text(json.dumps(RULES))
    return run_here(
        'palm_jax.cli.filter', f'--rules={tmp_path / "rules.json"}', f'--input={tmp_path / source}',
        f'--output={tmp_path / output}', *flags,
    )  # fmt: skip


def test_a_table_keeps_what_no_rule_refuses_and_the_log_says_the_rest(tmp_path):
    rows = [('fine', 'a'), ('You IDIOT', 'a'), ('call 5555', 'b'), ('what!!!', 'a'), ('idiot!!!', 'b'), ('ok', 'idiot')]
    rows += [(f'row {i}', 'a') for i in range(300)]
    with (tmp_path / 'train.csv').open('w', newline='') as file:
        csv.writer(file).writerows([('text', 'label'), *rows])
    audit = tmp_path / 'audit.jsonl'
    result = filtered(tmp_path, 'train.csv', 'clean.csv', f'--audit={audit}', '--columns=text')
    assert result.returncode == 0 and 'kept       303 of 306 rows' in result.stdout, result.stdout + result.stderr
    assert "2 rows by 'insults'" in result.stdout and "1 row by 'shouting'" in result.stdout
    with (tmp_path / 'clean.csv').open(newline='') as file:
        kept = [(row['text'], row['label']) for row in csv.DictReader(file)]
    assert kept == [row for row in rows if row[0] not in ('You IDIOT', 'what!!!', 'idiot!!!')]
    lines = list(audit_log.read(audit))
    assert [(line['rule'], line['action'], line['location'][-6:]) for line in lines] == [
        ('insults', 'removed', 'line 3'), ('insults', 'removed', 'line 6'), ('numbers', 'recorded', 'line 4'),
        ('shouting', 'removed', 'line 5'),
    ]  # fmt: skip
    assert all(line['score'] == 1.0 and line['side'] == 'data' and line['version'] for line in lines)
    assert lines[0]['sha256'] == hashlib.sha256(b'You IDIOT').hexdigest()
    again = filtered(tmp_path, 'train.csv', 'clean.csv')
    assert again.returncode == 2 and 'exists already' in again.stderr
    everything = filtered(tmp_path, 'train.csv', 'all.jsonl', f'--audit={audit}')
    assert everything.returncode == 0 and 'kept       302 of 306' in everything.stdout  # a label is read, too
    assert len(list(audit_log.read(audit))) == 9


def test_lines_and_conversations_are_filtered(tmp_path):
    (tmp_path / 'text.txt').write_text('first\n\nan idiot\nlast\n')
    assert filtered(tmp_path, 'text.txt', 'clean.txt').returncode == 0
    assert (tmp_path / 'clean.txt').read_text() == 'first\n\nlast\n'
    chats = [
        [{'role': 'user', 'content': text}, {'role': 'assistant', 'content': 'yes'}] for text in ('hello', 'idiot')
    ]
    (tmp_path / 'chats.jsonl').write_text(''.join(json.dumps({'messages': chat}) + '\n' for chat in chats))
    assert filtered(tmp_path, 'chats.jsonl', 'clean.jsonl').returncode == 0
    (line,) = (tmp_path / 'clean.jsonl').read_text().splitlines()
    assert json.loads(line) == {'messages': chats[0]}


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"text": ["a", "b"]}\n')
    for output, flags, message in (
        ('out.csv', (), 'a cell of .csv cannot hold a list'),
        ('out.txt', (), 'cannot be a line'),
        ('out.jsonl', ('--columns=txt',), "no column 'txt'. Did you mean text"),
        ('out.parquet', (), 'must end in .jsonl or .csv or .txt'),
    ):
        result = filtered(tmp_path, 'a.jsonl', output, *flags)
        assert result.returncode == 2 and message in result.stderr, result.stderr
        assert not list(tmp_path.glob('out.*'))
    (tmp_path / 'none.csv').write_text('text,label\n')
    result = filtered(tmp_path, 'none.csv', 'out.csv')
    assert result.returncode == 2 and "none.csv': the file contains no rows." in result.stderr
    assert not list(tmp_path.glob('out.*'))
