"""python -m palm_jax.infer --gin_file=runs/finetuned/config.gin --input=in.jsonl --output=out.jsonl"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from palm_jax import command_line
from palm_jax.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Flags to one call."""
    parser = command_line.parser('infer', 'Answers every row of a file with a trained model.')
    parser.add_argument('--input', required=True, help='.jsonl, .csv, .tsv, .parquet, or .txt with a text a line')
    parser.add_argument('--output', required=True, help='.jsonl: the rows in their order, each with what is said of it')
    parser.add_argument('--batch_size', type=int, default=32, help='rows worked on at one time')
    rest, flags = command_line.split_flags(arguments)
    options = parser.parse_args(rest)
    config = Path(options.gin_file[0])
    if len(options.gin_file) > 1 or config.name != 'config.gin' or not config.is_file():
        raise UserError(f'--gin_file={options.gin_file[0]}: name the config.gin that a run left in its MODEL_DIR.')

    from palm_jax import predictions, trained

    model = trained.load_with(config.parent, flags)
    about = {'model': str(model.checkpoint), 'bindings': flags}
    answered, bad = predictions.write(model, options.input, options.output, about, options.batch_size)
    print(f'answered   {answered:,} rows, {bad:,} with an error: {options.output}')
    return 1 if bad and not answered else 0


if __name__ == '__main__':
    command_line.run(main)
