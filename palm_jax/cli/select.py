"""palm-jax select --gin_file=runs/finetuned/config.gin --input=pool.csv --output=round_1.csv

Chooses the texts of a pool that are worth a label next (active learning), and writes them as a table with the columns
of the training table: the label is empty, for you to fill in, with a score and a reason beside it.

Texts that the run was trained or evaluated on are left out, and so are those that --exclude names. Train on the old
and the new labels, and select the next round with the run that this gives.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from palm_jax.bounds import AtLeast, AtMost
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, file_name, number, positive
from palm_jax.errors import UserError
from palm_jax.wording import counted

_IN_TERMINAL = 5
_STRATEGIES = ('entropy', 'margin', 'least_confidence', 'bald', 'coreset', 'badge', 'random')


def main(arguments: Sequence[str]) -> int:
    """Choose texts to label, and write them."""
    options, run = command_line.parse_run(_parser(), arguments)
    output: Path = options.output
    if output.exists():
        raise UserError(
            f'--output={output} exists already, and may have labels in it. Name another file, or remove it: '
            f'{shlex.join(["rm", str(output)])}'
        )
    command_line.writable(output)

    from palm_jax.run_directory import write_whole
    from palm_jax.selection import pool, select

    settings = select.Settings(
        strategy=options.strategy,
        count=options.count,
        num_samples=options.samples,
        dropout_rate=options.dropout_rate,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    model = run.load()
    select.check_kind(model, settings.strategy)
    labelled = [*pool.own_texts(model, 'train'), *pool.listed_texts(model, options.exclude)]
    excluded = [*labelled, *pool.own_texts(model, 'validation')]
    found = pool.read(model, options.input, excluded, options.subsample, options.seed, options.copy_labels)
    print(
        f'pool       {counted(found.num_rows, "row")}: {found.num_labelled:,} labelled already, '
        f'{found.num_repeated:,} repeated, {found.num_unusable:,} unusable, {found.num_new:,} new'
    )
    if len(found.candidates) < found.num_new:
        print(f'sample     {counted(len(found.candidates), "new text")} at random (--subsample)')
    choices = select.choose(model, found.candidates, labelled, settings)
    columns = pool.Columns.of(model)
    write_whole(output, select.as_csv(columns, choices))
    fewer = '' if len(choices) == settings.count else f' of {settings.count:,} that were asked for: no more are left'
    print(f'chosen     {counted(len(choices), "text")} by {settings.strategy}{fewer}')
    for choice in choices[:_IN_TERMINAL]:
        print(f'           {_short(" / ".join(choice.candidate.texts))}  ({choice.reason})')
    print(f'written    {output}')
    if not options.copy_labels:
        print(f'next       fill in the column {columns.label!r}, train on it besides, and select again with that run')
    return 0


def _parser() -> Parser:
    parser = command_line.parser(
        'select',
        __doc__ or '',
        '--gin_file=runs/finetuned/config.gin --input=pool.csv --output=round_1.csv',
        command_line.RUN_CONFIG,
    )
    parser.add_argument(
        '--input', required=True, help='texts without labels: .csv, .tsv, .jsonl, .parquet, or .txt with one per line'
    )
    parser.add_argument('--output', type=file_name('.csv'), required=True, help='.csv file to write')
    parser.add_argument('--strategy', choices=_STRATEGIES, default='entropy', help='which texts are worth a label')
    parser.add_argument('--count', type=positive, default=50, help='number of texts to choose')
    parser.add_argument(
        '--exclude',
        action='append',
        default=[],
        help='table of texts that are labelled already, or are being labelled; may be repeated; default: none, '
        'besides the data of the run',
    )
    parser.add_argument(
        '--subsample',
        type=positive,
        metavar='N',
        help='choose among N new texts, drawn at random, where the pool has more; default: all',
    )
    parser.add_argument(
        '--samples',
        type=number(Annotated[int, AtLeast(2)]),
        default=10,
        needs='--strategy=bald',
        help='dropout masks of --strategy=bald',
    )
    parser.add_argument(
        '--dropout_rate',
        type=number(Annotated[float, AtLeast(0.001), AtMost(0.9)]),
        needs='--strategy=bald',
        help='dropout rate of --strategy=bald; default: that of the run, and 0.1 where the run has none',
    )
    parser.add_argument(
        '--copy_labels',
        action='store_true',
        help='copy the labels that the input has, to measure a strategy on a table that is labelled',
    )
    parser.add_argument('--seed', type=number(Annotated[int, AtLeast(0)]), default=0, help='seed of all random choices')
    parser.add_argument('--batch_size', type=positive, default=32, help='texts per pass')
    command_line.add_trust(parser)
    return parser


def _short(text: str, most: int = 60) -> str:
    text = ' '.join(text.split())
    return text if len(text) <= most else f'{text[: most - 1]}…'
