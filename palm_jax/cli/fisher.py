"""palm-jax fisher --gin_file=runs/first/config.gin --output=first.npz"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from palm_jax.bounds import AtLeast, AtMost, Seed
from palm_jax.cli import command_line
from palm_jax.cli.parser import file_name, number, positive


def main(arguments: Sequence[str]) -> int:
    """Write the Fisher information of a trained model, for EWC."""
    parser = command_line.parser(
        'fisher',
        'Writes how much each weight of a trained model matters for what it has learned: the diagonal of its Fisher\n'
        'information, for gin/methods/ewc.gin. It is that of the training table, of which one row is read at a time.',
        '--gin_file=runs/first/config.gin --output=first.npz',
        command_line.RUN_CONFIG,
    )
    parser.add_argument('--output', type=file_name('.npz'), required=True, help='.npz file to write')
    parser.add_argument('--rows', type=positive, default=256, help='number of training rows, drawn by --seed')
    parser.add_argument(
        '--targets',
        choices=('model', 'data'),
        default='model',
        help="model: drawn from the model's predictions (the Fisher information); data: those of the table (empirical)",
    )
    parser.add_argument('--previous', metavar='FILE', help='.npz file of the earlier tasks, to be added; default: none')
    parser.add_argument(
        '--decay',
        type=number(Annotated[float, AtLeast(0), AtMost(1)]),
        default=1.0,
        needs='--previous',
        help='factor of --previous (online EWC)',
    )
    parser.add_argument('--seed', type=number(Seed), default=0, help='seed for the rows and the drawn targets')
    command_line.add_trust(parser)
    options, run = command_line.parse_run(parser, arguments)
    command_line.writable(options.output)

    from palm_jax.api import fisher as of_models
    from palm_jax.training import fisher

    earlier = None if options.previous is None else fisher.read(options.previous, '--previous')
    model = run.load()
    found, count = of_models.of_run(model, options.rows, options.targets, options.seed)
    if earlier is not None:
        found = found.after(earlier, options.decay)
    found.write(Path(options.output))
    mean = sum(float(x.sum()) for x in found.values.values()) / sum(x.size for x in found.values.values())
    print(f'rows       {count:,} of the training table')
    print(f'fisher     {mean:.3g} on average, {max(float(x.max()) for x in found.values.values()):.3g} at most')
    print(f'written    {options.output}')
    return 0
