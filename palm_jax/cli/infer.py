"""palm-jax infer --gin_file=runs/finetuned/config.gin --input=in.jsonl --output=out.jsonl"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from palm_jax.cli import command_line
from palm_jax.cli.parser import file_name, positive


def main(arguments: Sequence[str]) -> int:
    """Predict every row of a file."""
    parser = command_line.parser(
        'infer',
        'Predicts every row of a file with a trained model.',
        '--gin_file=runs/finetuned/config.gin --input=in.jsonl --output=out.jsonl',
        command_line.RUN_CONFIG,
    )
    parser.add_argument('--input', required=True, help='.jsonl, .csv, .tsv, .parquet, or .txt with one text per line')
    parser.add_argument(
        '--output',
        type=file_name('.jsonl'),
        required=True,
        help='.jsonl file to write; one output line per input row, in input order',
    )
    parser.add_argument('--batch_size', type=positive, default=32, help='number of rows predicted together')
    command_line.add_trust(parser)
    rest, flags = command_line.split_flags(arguments)
    options = parser.parse_args(rest)
    run, changes = command_line.run_of(options.gin_file)

    from palm_jax.api import loading, predictions
    from palm_jax.configuration.statements import find_config
    from palm_jax.data.readers.files import glob_files

    with predictions.reserve(str(options.output)) as output:
        glob_files(options.input, '--input')
        files = [find_config(name, '--gin_file').read_text(encoding='utf-8') for name in changes]
        model = loading.load_with(run.path, flags, changes, trust_modules=options.trust_modules)
        try:
            answered, bad = output.write(model, options.input, {'files': files, 'flags': flags}, options.batch_size)
        except KeyboardInterrupt:
            print('finished rows are kept, and the same command resumes after them', file=sys.stderr)
            raise
    print(f'predicted  {answered:,} rows, {bad:,} with an error: {options.output}')
    return 1 if bad and not answered else 0
