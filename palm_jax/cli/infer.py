"""palm-jax infer --gin_file=runs/finetuned/config.gin --input=in.jsonl --output=out.jsonl"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from palm_jax.cli import command_line


def main(arguments: Sequence[str]) -> int:
    """Flags to one call."""
    parser = command_line.parser('infer', 'Answers every row of a file with a trained model.')
    parser.add_argument('--input', required=True, help='.jsonl, .csv, .tsv, .parquet, or .txt with a text a line')
    parser.add_argument('--output', required=True, help='.jsonl: the rows in their order, each with what is said of it')
    parser.add_argument('--batch_size', type=command_line.positive, default=32, help='rows worked on at one time')
    rest, flags = command_line.split_flags(arguments)
    options = parser.parse_args(rest)
    run, changes = command_line.run_of(options.gin_file)

    from palm_jax.api import predictions, trained_model

    model = trained_model.load_with(run.path, flags, changes)
    about = {'model': str(model.checkpoint), 'files': list(changes), 'bindings': flags}
    try:
        answered, bad = predictions.write(model, options.input, options.output, about, options.batch_size)
    except KeyboardInterrupt:
        print('interrupted; what is answered is kept, and the same command goes on from there', file=sys.stderr)
        return 130
    print(f'answered   {answered:,} rows, {bad:,} with an error: {options.output}')
    return 1 if bad and not answered else 0
