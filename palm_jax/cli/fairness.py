"""palm-jax fairness --gin_file=runs/finetuned/config.gin --input=audit.csv --groups=gender,country

Shows whether a model that labels texts treats groups alike. The table has the columns of the training table and, for
each row, the groups in columns of your own. For each of these columns, and for all of them together, it shows how often
the model is right in each group, how often each label is given (demographic parity), and the true and false positive
rates (equalized odds), with 95% intervals of the gaps. Writes a web page, and JSON beside it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from palm_jax.bounds import Above, Seed
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, file_name, number, positive
from palm_jax.configuration.flags import split_flags
from palm_jax.errors import UserError, closest

if TYPE_CHECKING:
    from palm_jax.api.trained_model import TrainedModel
    from palm_jax.fairness.groups import Groups

_SHOWN = 12  # gaps of each column in the terminal


def main(arguments: Sequence[str]) -> int:
    """Compare groups; the code is 1 if a gap is larger than --fail_on."""
    rest, flags = split_flags(arguments)
    options = _parser().parse_args(rest)
    run, changes = command_line.run_of(options.gin_file)
    output = command_line.writable(options.output or Path(run.path / 'fairness.html'))

    from palm_jax.api import loading
    from palm_jax.fairness import audit
    from palm_jax.reports import pages

    names = list(dict.fromkeys(name.strip() for name in options.groups.split(',') if name.strip()))
    model = loading.load_with(run.path, flags, changes, trust_modules=options.trust_modules)
    found = audit.compare(model, *_read(model, options.input, names), options.batch_size, options.seed)
    tables: dict[str, Any] = {}
    for groups in found:
        tables[f'Groups by {groups.column}'] = _group_rows(groups)
        tables[f'Gaps by {groups.column}'] = _gap_rows(groups)
    output.write_text(pages.html_page(f'Fairness of {run.path.name}', tables, []), encoding='utf-8')
    about = {'model': str(run.path), 'checkpoint': str(model.checkpoint), 'input': options.input}
    content = json.dumps(about | {'groups': [dataclasses.asdict(g) for g in found]}, ensure_ascii=False, indent=1)
    output.with_suffix('.json').write_text(content + '\n', encoding='utf-8')
    for title, rows in tables.items():
        print(f'{title}\n{_text(rows[: _SHOWN + 1])}')
    for groups in found:
        print(_sentence(groups))
    print(f'page       {output} (and {output.with_suffix(".json").name})')
    largest = max(gap.value for groups in found for gap in groups.gaps)
    return 1 if options.fail_on is not None and largest > options.fail_on else 0


def _parser() -> Parser:
    parser = command_line.parser(
        'fairness',
        __doc__ or '',
        '--gin_file=runs/finetuned/config.gin --input=audit.csv --groups=gender',
        command_line.RUN_CONFIG,
    )
    parser.add_argument('--input', required=True, help='labelled table with the groups: .jsonl, .csv, .tsv or .parquet')
    parser.add_argument('--groups', required=True, help='columns of the groups, separated by commas')
    parser.add_argument(
        '--fail_on', type=number(Annotated[float, Above(0)]), help='gap above which the exit code is 1; default: none'
    )
    parser.add_argument('--seed', type=number(Seed), default=0, help='seed of the bootstrap')
    parser.add_argument('--batch_size', type=positive, default=32, help='texts per forward pass')
    parser.add_argument('--output', type=file_name('.html'), help='.html file; default: fairness.html in MODEL_DIR')
    command_line.add_trust(parser)
    return parser


def _read(model: TrainedModel, source: str, names: Sequence[str]) -> tuple[list[Any], list[Any], dict[str, list[str]]]:
    """Return the inputs, the labels, and the groups of each column.

    Raises:
      UserError: a row cannot be read, or lacks a label or a group.
    """
    from palm_jax.api.predictions import read_rows
    from palm_jax.fairness import audit

    audit.check_kind(model)
    inputs: list[Any] = []
    labels: list[Any] = []
    groups: dict[str, list[str]] = {name: [] for name in names}
    for row in read_rows(source, model.data.layout):
        if isinstance(row, UserError):
            raise row
        for name in (model.data.table.label_column, *names):
            if name not in row.values:
                raise UserError(f'{row.location}: there is no column {name!r}.{closest(name, row.values)}')
        inputs.append(model.predictor.parse(model, row))
        labels.append(row.values[model.data.table.label_column])
        for name in names:
            groups[name].append(str(row.values[name]).strip() or '(empty)')
    return inputs, labels, groups


def _group_rows(groups: Groups) -> list[tuple[str, ...]]:
    from palm_jax.fairness.groups import SMALL

    widest = next((gap.label for gap in groups.gaps if gap.metric == 'demographic parity'), '')
    header = ('group', 'rows', groups.metric, *([f'given {widest}'] if widest else []))
    rows: list[tuple[str, ...]] = [header]
    for group, count in groups.counts.items():
        share = [f'{groups.shares[widest][group]:.1%}'] if widest else []
        few = ' (few)' if count < SMALL else ''
        rows.append((group, f'{count:,}{few}', f'{abs(groups.scores[group]):.4f}', *share))
    return rows


def _gap_rows(groups: Groups) -> list[tuple[str, ...]]:
    header = ('metric', 'label', 'gap', '95% interval', 'lowest', 'highest')
    cells = [
        (g.metric, g.label, f'{g.value:.4f}', f'{g.low:.4f} to {g.high:.4f}', g.lowest, g.highest) for g in groups.gaps
    ]
    return [header, *cells]


def _sentence(groups: Groups) -> str:
    worst = groups.worst
    shown = f'{groups.metric} {abs(groups.scores[worst]):.4f} (all rows: {abs(groups.overall):.4f})'
    ratio = '' if groups.ratio is None else f'; smallest over largest share of a label {groups.ratio:.2f}'
    return f'{groups.column}: the worst group is {worst!r}, {shown}{ratio}'


def _text(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ('  '.join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
    return '\n'.join(f'  {line}' for line in lines)
