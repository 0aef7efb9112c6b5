"""palm-jax inspect step --gin_file=runs/tiny/config.gin --step=100

Shows the batch that a run learned from in a step: its texts, what the loss counts, and the loss of every token under
the run's checkpoint. A batch is a function of the seed, the step and the batches that were skipped, so that the batch
of any step is there again, without a record of it. Prints some rows, and writes a web page with JSON beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from palm_jax.cli import command_line
from palm_jax.cli.parser import file_name, positive


def main(arguments: Sequence[str]) -> int:
    """Look at the batch of a step."""
    parser = command_line.parser(
        'inspect step', __doc__ or '', '--gin_file=runs/tiny/config.gin --step=100', command_line.RUN_CONFIG
    )
    parser.add_argument('--step', type=positive, required=True, help='step of the run, from 1 as in metrics.jsonl')
    parser.add_argument('--rows', type=positive, default=4, help='most rows of the batch to look at')
    parser.add_argument('--output', type=file_name('.html'), help='.html file; default: step_N.html in MODEL_DIR')
    command_line.add_trust(parser)
    options, run = command_line.parse_run(parser, arguments)
    output = command_line.writable(options.output or Path(run.path / f'step_{options.step}.html'))

    from palm_jax.microscope import steps

    model = run.load()
    found = steps.look(model, run.path, options.step, options.rows)
    note = f'Losses under {model.checkpoint}. Grey tokens are not counted by the loss.'
    output.write_text(steps.as_html(found, [note]), encoding='utf-8')
    content = {'checkpoint': str(model.checkpoint)} | steps.to_json(found)
    output.with_suffix('.json').write_text(json.dumps(content, ensure_ascii=False, indent=1) + '\n', encoding='utf-8')
    print(steps.as_text(found))
    print(f'page       {output} (and {output.with_suffix(".json").name}); losses under {model.checkpoint}')
    return 0
