"""palm-jax augment --input=text_data.csv --output=made.jsonl --through_run=runs/en_de --through_run=runs/de_en

Makes further training texts of those of a table: by back-translation, through your own runs or through another program
(--through_command='apertium eng-spa' --through_command='apertium spa-eng'); by infilling, with a run that was trained
to denoise (--infill); or by generation from the columns of a row, such as its label (--generate). With --filter a
classifier keeps the texts that it is sure still have their row's label. Training reads the file with
--gin_file=gin/methods/made_texts.gin --gin.AUGMENTED_FILES=made.jsonl.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

from palm_jax.bounds import Above, AtLeast, AtMost, Below
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, file_name, number, positive
from palm_jax.errors import UserError
from palm_jax.wording import counted

_EXAMPLE = '--input=text_data.csv --output=made.jsonl --through_run=runs/en_de --through_run=runs/de_en'


def main(arguments: Sequence[str]) -> int:
    """Make texts, and write them."""
    options = _parser().parse_args(arguments)
    ways = [name for name in ('through', 'infill', 'generate') if getattr(options, name)]
    if len(ways) != 1:
        raise UserError(
            'Say in one way how texts are made: --through_run and --through_command (there and back), --infill, or '
            f'--generate. For example:\n  palm-jax augment {_EXAMPLE}'
        )

    from palm_jax.api import loading
    from palm_jax.api.trained_model import TrainedModel
    from palm_jax.data.readers import tables
    from palm_jax.data.readers.delimited import Layout
    from palm_jax.synthesis import write
    from palm_jax.synthesis.back_translation import BackTranslation, CommandTranslator, RunTranslator
    from palm_jax.synthesis.confidence import Confidence
    from palm_jax.synthesis.generation import Generation
    from palm_jax.synthesis.infilling import Infilling
    from palm_jax.synthesis.maker import Maker, Sampling

    flags = ['--text_column', *(['--label_column'] if options.filter else [])]
    wanted = [(flag, getattr(options, flag.removeprefix('--'))) for flag in flags]
    rows = tables.read(options.input, tuple(wanted), '--input', Layout(encoding='utf-8'))
    sampling = Sampling(options.seed, options.temperature)

    def load(run: str) -> TrainedModel:
        return loading.load_with(run, [], trust_modules=options.trust_modules)

    maker: Maker
    if options.infill:
        maker = Infilling(load(options.infill), sampling, options.rate, options.mean_span)
    elif options.generate:
        maker = Generation(load(options.generate), sampling)
    else:
        maker = BackTranslation(
            [
                CommandTranslator(value) if kind == 'command' else RunTranslator(load(value), sampling)
                for kind, value in options.through
            ]
        )
    confidence = None
    if options.filter:
        confidence = Confidence(load(options.filter), options.label_column, options.confidence)
    try:
        counts = write.write(rows, str(options.output), maker, options.copies, options.text_column, confidence)
    except KeyboardInterrupt:
        print('finished rows are kept, and the same command resumes after them', file=sys.stderr)
        raise
    doubtful = f', {counts.doubtful:,} left out by the filter' if confidence else ''
    print(f'made       {counted(counts.made, "text")} of {counted(len(rows), "row")} by {maker.name}')
    print(f'kept       {counts.kept:,}; {counts.unchanged:,} repeated or unchanged{doubtful}')
    print(f'written    {options.output}')
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog=command_line.started_as('augment'),
        description=__doc__,
        example=f'{command_line.started_as("augment")} {_EXAMPLE}',
    )
    parser.add_argument('--input', required=True, help='table of texts: .csv, .tsv, .jsonl, .parquet')
    parser.add_argument('--output', type=file_name('.jsonl'), required=True, help='.jsonl file to write')
    parser.add_argument(
        '--through_run',
        action='append',
        dest='through',
        metavar='RUN',
        type=lambda value: ('run', value),
        help='MODEL_DIR of a run from text to text that translates; repeat it for the way back; default: none',
    )
    parser.add_argument(
        '--through_command',
        action='append',
        dest='through',
        metavar='COMMAND',
        type=lambda value: ('command', value),
        help='program that translates line by line, from standard input to standard output, or from the file '
        '{input} to {output}; repeat it for the way back; default: none',
    )
    parser.add_argument('--infill', metavar='RUN', help='MODEL_DIR of a run that was trained to denoise; default: none')
    parser.add_argument(
        '--generate',
        metavar='RUN',
        help='MODEL_DIR of a run from text to text, whose input is made of the columns; default: none',
    )
    parser.add_argument('--filter', metavar='RUN', help='MODEL_DIR of a classifier of the labels; default: no filter')
    parser.add_argument(
        '--confidence',
        type=number(Annotated[float, AtLeast(0), AtMost(1)]),
        default=0.7,
        needs='--filter',
        help="smallest probability of a row's label with which --filter keeps a text",
    )
    parser.add_argument(
        '--copies', type=positive, default=1, help='texts made of a row, at most; one where no step samples'
    )
    parser.add_argument(
        '--temperature',
        type=number(Annotated[float, AtLeast(0)]),
        default=0.9,
        help='temperature of what runs generate; 0 takes the likeliest token',
    )
    parser.add_argument('--seed', type=number(Annotated[int, AtLeast(0)]), default=0, help='seed of all random choices')
    parser.add_argument(
        '--rate',
        type=number(Annotated[float, Above(0), Below(1)]),
        default=0.3,
        help='share of the tokens that --infill replaces',
    )
    parser.add_argument(
        '--mean_span', type=number(Annotated[float, AtLeast(1)]), default=3.0, help='mean tokens of a span of --infill'
    )
    parser.add_argument('--text_column', default='text', help='column with the text')
    parser.add_argument('--label_column', default='label', needs='--filter', help='column with the label')
    command_line.add_trust(parser)
    return parser
