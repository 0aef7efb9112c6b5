"""palm-jax filter --rules=rules.json --input=train.csv --output=clean.csv [--audit=audit.jsonl]

Writes the rows of a table that no rule refuses. The rules are those of `palm-jax serve --rules`: words, patterns, your
own classifiers and functions, services over HTTP. Every text that a rule removes or records is a line of the audit log.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, file_name
from palm_jax.errors import UserError
from palm_jax.wording import counted


def main(arguments: Sequence[str]) -> int:
    """Filter a table."""
    options = _parser().parse_args(arguments)
    output: Path = options.output
    if output.exists():
        raise UserError(f'--output={output} exists already. Name another file, or remove it: rm {output}')
    command_line.writable(output)

    from tqdm import tqdm

    from palm_jax.api.predictions import read_rows
    from palm_jax.data.readers.delimited import Layout
    from palm_jax.monitoring import content_filter
    from palm_jax.monitoring.audit_log import AuditLog
    from palm_jax.monitoring.content_filter import ContentFilter
    from palm_jax.monitoring.data_filter import DataFilter
    from palm_jax.serving.models import Loader

    rules = content_filter.load(options.rules, Loader((), options.trust_modules).scorer)
    columns = [name.strip() for name in (options.columns or '').split(',') if name.strip()]
    unfinished = output.with_name(f'{output.name}.unfinished')
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(AuditLog(options.audit)) if options.audit else None
        found = DataFilter(ContentFilter(rules, log), columns, options.input)
        rows = tqdm(read_rows(options.input, Layout(encoding='utf-8')), desc='rows', unit=' rows', leave=False)
        try:
            with unfinished.open('w', encoding='utf-8', newline='') as file:
                _WRITERS[output.suffix](file, found.passing(rows))
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(output)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    removed = found.removed.total()
    for rule, count in found.removed.most_common():
        print(f'removed    {counted(count, "row")} by {rule!r}')
    print(f'kept       {found.kept:,} of {counted(found.kept + removed, "row")}: {output}')
    if options.audit:
        print(f'audit log  {options.audit}')
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog=command_line.started_as('filter'),
        description=__doc__,
        example='palm-jax filter --rules=rules.json --input=train.csv --output=clean.csv',
    )
    parser.add_argument('--rules', type=file_name('.json'), required=True, help='.json file of rules')
    parser.add_argument('--input', required=True, help='.csv, .tsv, .jsonl, .json, .parquet, or .txt with lines')
    parser.add_argument(
        '--output', type=file_name(*_WRITERS), required=True, help='.jsonl, .csv, or (of a .txt) .txt file to write'
    )
    parser.add_argument('--columns', help='columns that are read, separated by commas; default: all texts of a row')
    parser.add_argument(
        '--audit',
        metavar='FILE',
        type=file_name('.jsonl'),
        help='.jsonl file to which every text that a rule applies to is appended, by its hash; default: none',
    )
    command_line.add_trust(parser)
    return parser


def _write_jsonl(file: Any, rows: Iterable[Any]) -> None:
    for row in rows:
        file.write(json.dumps(row.values, ensure_ascii=False) + '\n')


def _write_lines(file: Any, rows: Iterable[Any]) -> None:
    for row in rows:
        if not row.is_line:
            raise UserError(f'{row.location}: a row with columns cannot be a line; write .jsonl or .csv.')
        file.write(f'{next(iter(row.values.values()))}\n')


def _write_csv(file: Any, rows: Iterator[Any]) -> None:
    writer: Any = None
    for row in rows:
        if any(isinstance(value, list | dict) for value in row.values.values()):
            raise UserError(f'{row.location}: a cell of .csv cannot hold a list or an object; write .jsonl.')
        if writer is None:
            writer = csv.DictWriter(file, list(row.values))
            writer.writeheader()
        if set(row.values) != set(writer.fieldnames):
            raise UserError(f'{row.location}: the columns differ from those of the first row; write .jsonl.')
        writer.writerow(row.values)


_WRITERS: dict[str, Callable[[Any, Any], None]] = {'.jsonl': _write_jsonl, '.csv': _write_csv, '.txt': _write_lines}
