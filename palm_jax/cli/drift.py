"""palm-jax drift --gin_file=runs/finetuned/config.gin --requests=requests.db

Tests whether a model is still asked what it was trained for: new inputs, and the model's outputs for them, are compared
with the held-out part of its run. The new inputs are what a server kept (palm-jax serve --keep=requests.db) or a file.
Prints a table with a verdict (none, some, much), and writes a web page with JSON beside it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from palm_jax.bounds import Above
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, file_name, number, positive
from palm_jax.errors import UserError
from palm_jax.wording import without_passwords

if TYPE_CHECKING:
    from palm_jax.api.trained_model import TrainedModel

_DAY = 86_400.0  # seconds


def main(arguments: Sequence[str]) -> int:
    """Compare new inputs with the reference; the code is 1 if the verdict is at least that of --fail_on."""
    options, run = command_line.parse_run(_parser(), arguments)
    if bool(options.requests) == bool(options.input):
        raise UserError('Give either --requests with what a server kept, or --input with a file of texts.')
    output = command_line.writable(options.output or Path(run.path / 'drift.html'))

    from palm_jax.monitoring import drift, drift_report, request_log

    model = run.load()
    if options.reference:
        reference, labels = _read(model, options.reference, options.examples), None
    else:
        reference, labels = drift_report.held_out(model, options.examples)
    if options.requests:
        since = 0.0 if options.days is None else time.time() - options.days * _DAY
        kept = list(request_log.read(options.requests, options.model, since))
        new = [tuple(k.input) if isinstance(k.input, list) and _is_pair(k.input) else k.input for k in kept]
        new = new[-options.examples :]
    else:
        new = _read(model, options.input, options.examples)
    report = drift_report.compare(model, reference, new, labels, options.batch_size, _names(options))
    about = {
        'model': str(run.path),
        'checkpoint': str(model.checkpoint),
        'new': without_passwords(options.requests or options.input),
    }
    output.write_text(report.page(f'Drift of {run.path.name}'), encoding='utf-8')
    content = json.dumps(about | report.to_json(), ensure_ascii=False, indent=1)
    output.with_suffix('.json').write_text(content + '\n', encoding='utf-8')
    print(report.text())
    print(f'page       {output} (and {output.with_suffix(".json").name})')
    is_refused = options.fail_on and drift.LEVELS.index(report.verdict) >= drift.LEVELS.index(options.fail_on)
    return 1 if is_refused else 0


def _parser() -> Parser:
    parser = command_line.parser(
        'drift',
        __doc__ or '',
        '--gin_file=runs/finetuned/config.gin --requests=requests.db',
        command_line.RUN_CONFIG,
    )
    parser.add_argument('--requests', help='database of palm-jax serve --keep: a file or a URL; default: --input')
    parser.add_argument(
        '--model',
        needs='--requests',
        help='with --requests: name of the model that was asked; default: every model',
    )
    parser.add_argument(
        '--days',
        type=number(Annotated[float, Above(0)]),
        needs='--requests',
        help='with --requests: only the last days; default: all',
    )
    parser.add_argument(
        '--input',
        help='file of new inputs: .jsonl, .csv, .tsv, .parquet, or .txt with a text per line; default: --requests',
    )
    parser.add_argument('--reference', help='file to compare with; default: the held-out part of the run')
    parser.add_argument(
        '--examples',
        type=positive,
        default=1000,
        help='most inputs of each kind: some of a table, the last requests',
    )
    parser.add_argument('--batch_size', type=positive, default=32, help='inputs per forward pass')
    parser.add_argument(
        '--fail_on', choices=('some', 'much'), help='verdict from which on the exit code is 1; default: none'
    )
    parser.add_argument('--output', type=file_name('.html'), help='.html file; default: drift.html in MODEL_DIR')
    command_line.add_trust(parser)
    return parser


def _names(options: Any) -> tuple[str, str]:
    """Return what reference and new inputs are called, with the flags that name others."""
    reference = 'the held-out part of the run (name another reference with --reference=FILE)'
    if options.reference:
        reference = f'--reference={options.reference}'
    if options.input:
        return reference, f'--input={options.input}'
    flags = [f'--{name}={getattr(options, name)}' for name in ('model', 'days') if getattr(options, name) is not None]
    return reference, ' '.join([f'--requests={without_passwords(options.requests)}', *flags])


def _is_pair(given: list[Any]) -> bool:
    return len(given) == 2 and all(isinstance(part, str) for part in given)


def _read(model: TrainedModel, source: str, most: int) -> list[Any]:
    """Return the inputs that the rows of a file hold; of more than `most`, some that are spread evenly over the file.

    Raises:
      UserError: if a row cannot be read.
    """
    from palm_jax.api.predictions import read_rows
    from palm_jax.data.readers.delimited import Layout
    from palm_jax.evenly_spaced import evenly_spaced

    layout = getattr(model.data, 'layout', Layout())
    chosen = set(evenly_spaced(sum(1 for _ in read_rows(source, layout)), most))
    inputs: list[Any] = []
    for place, row in enumerate(read_rows(source, layout)):
        if isinstance(row, UserError):
            raise row
        if place in chosen:
            inputs.append(model.predictor.parse(model, row))
    return inputs
