"""palm-jax contamination --gin_file=runs/finetuned/config.gin [--corpus=runs/tiny/config.gin]

Shows how much of the held-out part of a fine-tuned run was in the text that the run, or its base (--corpus), was
trained on, and the scores of the clean and the dirty part beside each other. Writes a web page, and JSON beside it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from palm_jax.bounds import Above, AtMost
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, file_name, number, positive

if TYPE_CHECKING:
    from palm_jax.microscope.near_duplicates import NearDuplicates

_MOST_PAIRS = 50  # near-duplicates on the page
_WITHOUT_ANSWERS = (
    'it has no held-out examples whose clean and dirty scores could be compared. Name a run that was fine-tuned on a '
    'table, and this one as its --corpus; what this one has memorized is shown by palm-jax memorization.'
)


def main(arguments: Sequence[str]) -> int:
    """Compare the held-out part with the training text."""
    options, run = command_line.parse_run(_parser(), arguments)
    corpora = [command_line.run_of([name], '--corpus') for name in options.corpus]
    output = command_line.writable(options.output or Path(run.path / 'contamination.html'))

    from tqdm import tqdm

    from palm_jax.api import loading
    from palm_jax.microscope import contamination
    from palm_jax.microscope.near_duplicates import NearDuplicates
    from palm_jax.probing import answers
    from palm_jax.reports import pages

    model = run.load()
    cases = answers.spread(answers.cases(model, _WITHOUT_ANSWERS), options.examples)
    texts = ['\n'.join(case.texts) for case in cases]
    sources = [model.data]
    for corpus, _ in corpora:
        data = loading.load_with(corpus.path, [], trust_modules=options.trust_modules).data
        data.prepare(corpus)
        sources.append(data)
    training: Iterable[str] = itertools.chain.from_iterable(map(contamination.training_texts, sources))
    training = tqdm(training, desc='training text', unit=' texts', leave=False)
    near = NearDuplicates(texts, options.near) if options.near is not None else None
    shares = contamination.overlaps(texts, training if near is None else near.passing(training), options.words)
    found = answers.answers(model, cases, options.batch_size)
    parts = contamination.parts(shares, found.scores, options.share)
    rows = [('part', 'texts', found.metric, '95% interval'), *(_row(name, part) for name, part in parts.items())]
    worst = sorted(range(len(texts)), key=lambda i: -shares[i])[:50]
    tables: dict[str, Any] = {
        'Clean and dirty': rows,
        'Most overlap': [('share', 'text'), *((f'{shares[i]:.0%}', texts[i]) for i in worst if shares[i] > 0)],
    }
    if near is not None:
        tables['Near-duplicates'] = [('similarity', 'text', 'training text'), *_near_rows(texts, near)]
    output.write_text(pages.html_page(f'Contamination of {run.path.name}', tables, []), encoding='utf-8')
    content = {
        'model': str(run.path),
        'corpora': [str(corpus.path) for corpus, _ in corpora],
        'metric': found.metric,
        'parts': {name: dataclasses.asdict(part) for name, part in parts.items()},
        'texts': [{'text': t, 'share': float(s)} for t, s in zip(texts, shares, strict=True)],
    }
    if near is not None:
        content['near_duplicates'] = [
            {'text': text, 'training_text': found.text, 'similarity': found.similarity}
            for text, found in zip(texts, near.found, strict=True)
            if found is not None
        ]
    output.with_suffix('.json').write_text(json.dumps(content, ensure_ascii=False, indent=1) + '\n', encoding='utf-8')
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print('  '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    if near is not None:
        count = len(content['near_duplicates'])
        print(f'{count:,} of {len(texts):,} texts have a near-duplicate in the training text')
    print(f'page       {output} (and {output.with_suffix(".json").name})')
    return 0


def _parser() -> Parser:
    parser = command_line.parser(
        'contamination', __doc__ or '', '--gin_file=runs/finetuned/config.gin', command_line.RUN_CONFIG
    )
    parser.add_argument(
        '--corpus',
        action='append',
        default=[],
        help='config.gin of a run whose training text counts, too, such as the base; default: none',
    )
    parser.add_argument('--examples', type=positive, default=1000, help='most held-out examples')
    parser.add_argument('--words', type=positive, default=8, help='words of an n-gram')
    parser.add_argument(
        '--share',
        type=number(Annotated[float, Above(0), AtMost(1)]),
        default=0.7,
        help='share of the n-grams in the training text from which on a text is dirty',
    )
    parser.add_argument(
        '--near',
        type=number(Annotated[float, Above(0), AtMost(1)]),
        help='also list texts of which a training text has this Jaccard similarity or more, e.g. 0.8; default: none',
    )
    parser.add_argument('--batch_size', type=positive, default=32, help='texts per forward pass')
    parser.add_argument(
        '--output', type=file_name('.html'), help='.html file; default: contamination.html in MODEL_DIR'
    )
    command_line.add_trust(parser)
    return parser


def _near_rows(texts: Sequence[str], near: NearDuplicates) -> list[tuple[str, str, str]]:
    pairs = [(found, text) for text, found in zip(texts, near.found, strict=True) if found is not None]
    pairs.sort(key=lambda pair: -pair[0].similarity)
    return [(f'{found.similarity:.0%}', text, found.text) for found, text in pairs[:_MOST_PAIRS]]


def _row(name: str, part: Any) -> tuple[str, ...]:
    if part.score is None:
        return name, f'{part.count:,}', 'n/a', 'n/a'
    interval = 'n/a'
    if part.interval is not None:
        low, high = sorted(abs(end) for end in part.interval)
        interval = f'{low:.4f} to {high:.4f}'
    return name, f'{part.count:,}', f'{abs(part.score):.4f}', interval
