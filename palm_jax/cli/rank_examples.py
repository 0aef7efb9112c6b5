"""palm-jax rank-examples --gin_file=runs/finetuned/config.gin --by=loss

Lists the examples of a fine-tuned run in order of trouble: by their loss, by the norm of their gradient, or by the
disagreement of several runs (--other). Lists near-duplicates among them, within and across the training and held-out
parts, and labels that are likely wrong, for your eye: nothing is changed. Writes a web page, and JSON beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from palm_jax.bounds import Above, AtMost
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, file_name, number, positive
from palm_jax.errors import UserError

_IN_TERMINAL = 10


def main(arguments: Sequence[str]) -> int:
    """Rank the examples of a split."""
    options, run = command_line.parse_run(_parser(), arguments)
    if (options.by == 'disagreement') != bool(options.other):
        raise UserError('--by=disagreement needs the runs to compare with, --other=MODEL_DIR, and nothing else does.')
    output = command_line.writable(options.output or Path(run.path / 'ranked.html'))

    from palm_jax.api import loading
    from palm_jax.microscope import ranked_examples
    from palm_jax.reports import pages

    model = run.load()
    others = [loading.load_with(path, [], trust_modules=options.trust_modules) for path in options.other]
    found = ranked_examples.rank(model, options.split, options.by, others, options.similarity, options.batch_size)
    tables: dict[str, Any] = {
        name: [rows[0], *rows[1 : options.examples + 1]] for name, rows in found.tables().items() if len(rows) > 1
    }
    page = tables | {name: [('',), (reason,)] for name, reason in found.reasons.items()}
    title = f'Examples of {run.path.name}, {options.split} part, by {options.by}'
    output.write_text(pages.html_page(title, page, []), encoding='utf-8')
    about = {'model': str(run.path), 'checkpoint': str(model.checkpoint), 'split': options.split, 'by': options.by}
    content = json.dumps(about | found.to_json(), ensure_ascii=False, indent=1)
    output.with_suffix('.json').write_text(content + '\n', encoding='utf-8')
    for name, (_, *rows) in tables.items():
        print(f'{name}')
        for row in rows[:_IN_TERMINAL]:
            print('  ' + '  '.join(_short(cell) for cell in row))
        if len(rows) > _IN_TERMINAL:
            print(f'  ... and {len(found.tables()[name]) - 1 - _IN_TERMINAL:,} more')
    for name, reason in found.reasons.items():
        print(f'{name}\n  {reason}')
    print(f'page       {output} (and {output.with_suffix(".json").name}, with all examples)')
    return 0


def _parser() -> Parser:
    parser = command_line.parser(
        'rank-examples', __doc__ or '', '--gin_file=runs/finetuned/config.gin --by=loss', command_line.RUN_CONFIG
    )
    parser.add_argument(
        '--by', choices=('loss', 'gradient', 'disagreement'), default='loss', help='order of the examples'
    )
    parser.add_argument('--split', choices=('train', 'validation'), default='train', help='part of the data')
    parser.add_argument(
        '--other', action='append', default=[], help='MODEL_DIR of another run; may be repeated; default: none'
    )
    parser.add_argument('--examples', type=positive, default=50, help='most rows of each table of the page')
    parser.add_argument(
        '--similarity',
        type=number(Annotated[float, Above(0), AtMost(1)]),
        default=0.8,
        help='least cosine of the character n-grams of near-duplicates',
    )
    parser.add_argument('--batch_size', type=positive, default=32, help='examples per call')
    parser.add_argument('--output', type=file_name('.html'), help='.html file; default: ranked.html in MODEL_DIR')
    command_line.add_trust(parser)
    return parser


def _short(cell: str, most: int = 70) -> str:
    text = ' '.join(cell.split())
    return text if len(text) <= most else f'{text[: most - 1]}…'
