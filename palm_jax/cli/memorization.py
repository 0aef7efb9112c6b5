"""palm-jax memorization --gin_file=runs/tiny/config.gin [--canaries=canaries.txt]

Tests what a language model has memorized of its training text: the share of training sequences whose first tokens make
it write the next ones exactly, by how often each was seen, beside held-out text; and how well the likelihood tells seen
from held-out text. Planted texts (--canaries, one with digits per line) get their exposure. Writes a web page, and JSON
beside it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palm_jax.bounds import Seed
from palm_jax.cli import command_line
from palm_jax.cli.parser import file_name, number, positive
from palm_jax.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Test a language model."""
    parser = command_line.parser(
        'memorization', __doc__ or '', '--gin_file=runs/tiny/config.gin', command_line.RUN_CONFIG
    )
    parser.add_argument('--examples', type=positive, default=200, help='most sequences seen equally often')
    parser.add_argument('--tokens', type=positive, default=50, help='tokens of the prompt, and of the continuation')
    parser.add_argument(
        '--canaries', type=Path, help='text file with a planted text per line, whose digits are secrets; default: none'
    )
    parser.add_argument(
        '--others',
        type=positive,
        default=1000,
        needs='--canaries',
        help='texts with other digits that each is ranked among',
    )
    parser.add_argument('--seed', type=number(Seed), default=0, needs='--canaries', help='seed of these digits')
    parser.add_argument('--batch_size', type=positive, default=32, help='sequences per forward pass')
    parser.add_argument('--output', type=file_name('.html'), help='.html file; default: memorization.html in MODEL_DIR')
    command_line.add_trust(parser)
    options, run = command_line.parse_run(parser, arguments)
    output = command_line.writable(options.output or Path(run.path / 'memorization.html'))
    if options.canaries and not options.canaries.is_file():
        raise UserError(f'--canaries={options.canaries} does not exist.')

    from palm_jax.data.readers.files import File
    from palm_jax.microscope import memorization
    from palm_jax.reports import pages

    planted = File(str(options.canaries)).text().split('\n') if options.canaries else []
    model = run.load()
    kept = memorization.windows(model, run.path, options.examples, options.tokens)
    found = memorization.memorized(model, kept, options.batch_size)
    texts = [line.rstrip('\r') for line in planted if line.strip()]
    canaries = memorization.exposures(model, texts, options.others, options.seed, options.batch_size)
    tables: dict[str, Any] = {'Exact continuations by times seen': _rows(found)}
    if canaries:
        cells = [(c.text, f'{c.rank:,} of {c.others + 1:,}', f'{c.exposure:.2f}') for c in canaries]
        tables['Canaries'] = [('text', 'rank', 'exposure in bits'), *cells]
    output.write_text(pages.html_page(f'Memorization of {run.path.name}', tables, []), encoding='utf-8')
    content = {
        'model': str(run.path),
        'checkpoint': str(model.checkpoint),
        'tokens': options.tokens,
        'by_times_seen': [dataclasses.asdict(f) for f in found],
        'canaries': [dataclasses.asdict(c) for c in canaries],
    }
    output.with_suffix('.json').write_text(json.dumps(content, ensure_ascii=False, indent=1) + '\n', encoding='utf-8')
    for title, (header, *rows) in tables.items():
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        print(title)
        for row in (header, *rows):
            print('  ' + '  '.join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
    print(f'page       {output} (and {output.with_suffix(".json").name})')
    return 0


def _rows(found: Sequence[Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [('times seen', 'sequences', 'exact', '95% interval', 'Min-K% Prob', 'AUC')]
    for f in found:
        interval = '{:.1%} to {:.1%}'.format(*f.interval)
        auc = 'n/a' if f.auc is None else f'{f.auc:.3f}'
        rows.append((f.times_seen, f'{f.count:,}', f'{f.exact:.1%}', interval, f'{f.min_k:.3f}', auc))
    return rows
