"""palm-jax eval --gin_file=runs/finetuned/config.gin [--task=my_task] [--output=scores.json]"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from palm_jax.cli import command_line
from palm_jax.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Flags to one call."""
    parser = command_line.parser('eval', 'Measures a trained model, with 95% intervals.')
    parser.add_argument('--task', help="a seqio task or mixture with metrics; default: the run's own held-out part")
    parser.add_argument('--split', default='validation', help='of the task')
    parser.add_argument('--examples', type=int, help='with --task: so many from the beginning of each; default: all')
    parser.add_argument('--shots', type=int, help='with --task: so many solved examples before every question')
    parser.add_argument('--output', type=Path, help='.json; default: eval.json in MODEL_DIR')
    rest, flags = command_line.split_flags(arguments)
    options = parser.parse_args(rest)
    run, changes = command_line.run_of(options.gin_file)
    output = options.output or run.evaluation
    if options.shots is not None and (options.task is None or options.shots < 0):
        raise UserError('--shots wants a number of examples, 0 or more, and --task, whose training part has them.')
    if options.examples is not None and (options.task is None or options.examples < 1):
        raise UserError('--examples wants a number of examples, 1 or more, and --task, of which they are the first.')
    if not output.parent.is_dir():
        raise UserError(f'--output: there is no folder {output.parent}.')

    from palm_jax.api import evaluation, trained_model

    model = trained_model.load_with(run.path, flags, changes)
    if options.task is None:
        measured = {'held-out part': evaluation.on_held_out(model)}
    else:
        measured = evaluation.on_tasks(model, options.task, options.split, options.examples, options.shots)
    about = {'checkpoint': str(model.checkpoint), 'files': list(changes), 'bindings': flags}
    output.write_text(json.dumps(about | {'measured': measured}, indent=2) + '\n')
    print(f'{evaluation.table(measured)}\nscores     {output}')
    return 0
