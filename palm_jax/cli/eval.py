"""palm-jax eval --gin_file=runs/finetuned/config.gin [--task=my_task] [--output=scores.json]"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

from palm_jax.bounds import AtLeast
from palm_jax.cli import command_line
from palm_jax.cli.parser import file_name, number, positive
from palm_jax.configuration.flags import split_flags


def main(arguments: Sequence[str]) -> int:
    """Evaluate a model and write its scores."""
    parser = command_line.parser(
        'eval',
        'Evaluates a trained model, with 95% confidence intervals.',
        '--gin_file=runs/finetuned/config.gin',
        command_line.RUN_CONFIG,
    )
    parser.add_argument('--task', help='seqio task or mixture with metrics; default: the validation split of the run')
    parser.add_argument('--split', default='validation', needs='--task', help='split of --task')
    parser.add_argument(
        '--examples',
        type=positive,
        needs='--task',
        help='with --task: number of examples per task, from its beginning; default: all',
    )
    parser.add_argument(
        '--shots',
        type=number(Annotated[int, AtLeast(0)]),
        needs='--task',
        help='with --task: number of few-shot examples per prompt; default: the question alone',
    )
    parser.add_argument('--output', type=file_name('.json'), help='.json file; default: eval.json in MODEL_DIR')
    command_line.add_trust(parser)
    rest, flags = split_flags(arguments)
    options = parser.parse_args(rest)
    run, changes = command_line.run_of(options.gin_file)
    output = command_line.writable(options.output or run.evaluation)

    from palm_jax.api import evaluation, loading

    model = loading.load_with(run.path, flags, changes, trust_modules=options.trust_modules)
    if options.task is None:
        measured = {'held-out part': evaluation.on_held_out(model)}
    else:
        measured = evaluation.on_tasks(model, options.task, options.split, options.examples, options.shots)
    about = {'checkpoint': str(model.checkpoint), 'files': list(changes), 'bindings': flags}
    output.write_text(json.dumps(about | {'measured': measured}, indent=2) + '\n', encoding='utf-8')
    print(f'{evaluation.table(measured)}\nscores     {output}')
    return 0
