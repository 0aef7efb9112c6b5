"""palm-jax eval --gin_file=runs/finetuned/config.gin [--task=my_task] [--output=scores.json]"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

from palm_jax.bounds import AtLeast
from palm_jax.cli import command_line
from palm_jax.cli.parser import file_name, number, positive


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
    options, run = command_line.parse_run(parser, arguments)
    output = command_line.writable(options.output or run.directory.evaluation)

    from palm_jax.api import evaluation

    model = run.load()
    if options.task is None:
        measured = {'held-out part': evaluation.on_held_out(model)}
    else:
        measured = evaluation.on_tasks(model, options.task, options.split, options.examples, options.shots)
    about = {'checkpoint': str(model.checkpoint), 'files': list(run.gin_files), 'bindings': run.bindings}
    output.write_text(json.dumps(about | {'measured': measured}, indent=2) + '\n', encoding='utf-8')
    print(f'{evaluation.table(measured)}\nscores     {output}')
    return 0
