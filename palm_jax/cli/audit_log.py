"""palm-jax audit-log --input=audit.jsonl

Checks the audit log of a server, of palm-jax filter or of palm-jax toxicity, and shows what was refused, recorded or
removed: how often each rule applied, with which action and of which model or file. Texts are not in the log;
--text='...' finds the lines about a text at hand by its SHA-256.
"""

from __future__ import annotations

import collections
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palm_jax.cli.parser import Parser, file_name
from palm_jax.errors import UserError
from palm_jax.wording import counted


def main(arguments: Sequence[str]) -> int:
    """Check an audit log, and print its lines by rule."""
    parser = Parser(prog='palm-jax audit-log', description=__doc__, example='palm-jax audit-log --input=audit.jsonl')
    parser.add_argument('--input', type=Path, required=True, help='.jsonl file that --audit=FILE wrote')
    parser.add_argument('--rule', help='only the lines of the rule of this name; default: all')
    parser.add_argument('--text', help='only the lines about this text, which are printed whole; default: all')
    parser.add_argument('--output', type=file_name('.json'), help='.json file; default: none')
    options = parser.parse_args(arguments)
    if options.output and not options.output.parent.is_dir():
        raise UserError(f'--output: the folder {options.output.parent} does not exist.')

    from palm_jax.monitoring import audit_log

    lines = _read(options.input)
    rules = sorted({line['rule'] for line in lines})
    if options.rule is not None and options.rule not in rules:
        from palm_jax.errors import closest

        known = f'Rules that applied: {", ".join(rules)}.' if rules else 'It has no lines.'
        raise UserError(f'{options.input} has no rule {options.rule!r}.{closest(options.rule, rules)} {known}')
    digest = None if options.text is None else audit_log.digest(options.text)
    found = [line for line in lines if options.rule in (None, line['rule']) and digest in (None, line['sha256'])]
    last = audit_log.last_hash(options.input)
    print(f'unchanged  {options.input}: {counted(len(lines), "line")}, the hash of the last one is {last}')
    counts = _counts(found)
    print('\n'.join(_table(counts)) if counts else 'found      no line')
    if options.text is not None:
        for line in found:
            print(json.dumps(line, ensure_ascii=False))
    if options.output:
        content = {'file': str(options.input), 'lines': len(lines), 'last_hash': last, 'rules': counts, 'found': found}
        options.output.write_text(json.dumps(content, ensure_ascii=False, indent=1) + '\n', encoding='utf-8')
        print(f'results    {options.output}')
    return 0


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log.

    Raises:
      UserError: the file does not exist, it was changed, or its lines are not about rules.
    """
    from palm_jax.monitoring import audit_log

    if not path.is_file():
        logs = [str(path / 'audit.jsonl'), *map(str, sorted(path.glob('*.jsonl')))] if path.is_dir() else []
        found = next((f' Did you mean --input={log}?' for log in logs if Path(log).is_file()), '')
        what = 'is a folder' if path.is_dir() else 'does not exist'
        raise UserError(f'--input={path} {what}: name the file of --audit=FILE.{found}')
    lines = list(audit_log.read(path))
    for number, line in enumerate(lines, 1):
        if missing := [name for name in ('time', 'action', 'rule', 'sha256') if name not in line]:
            raise UserError(f'{path}, line {number} is not a line of an audit log: it has no {missing[0]!r}.')
    return lines


def _counts(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how many lines there are of each rule, version, action, and model or file."""
    groups = collections.defaultdict(list)
    for line in lines:
        where = line.get('model') or line.get('file') or ''
        groups[line['rule'], line.get('version', ''), line['action'], str(where)].append(line['time'])
    return [
        {'rule': rule, 'version': version, 'action': action, 'where': where}
        | {'lines': len(times), 'first': _local(min(times)), 'last': _local(max(times))}
        for (rule, version, action, where), times in sorted(groups.items())
    ]


def _table(counts: Sequence[dict[str, Any]]) -> list[str]:
    rows = [tuple(counts[0]), *(tuple(map(str, count.values())) for count in counts)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _local(seconds: float) -> str:
    return time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))


if __name__ == '__main__':
    from palm_jax.cli import command_line

    command_line.run(main)
