"""palm-jax ab-test --requests=requests.db --model=intents

Compares two models that answered requests for one name (palm-jax serve --ab_test=NAME=MODEL_DIR --keep=requests.db) by
what users said to their answers: the share of answers that were corrected and the share of thumbs that are up, with
95% intervals of the differences (Newcombe's) and p-values (Fisher's exact test, corrected for two shares).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from palm_jax.bounds import Above
from palm_jax.cli.parser import Parser, file_name, number
from palm_jax.errors import UserError

if TYPE_CHECKING:
    from palm_jax.monitoring.ab_test import Arm, Difference

_DAY = 86_400.0  # seconds


def main(arguments: Sequence[str]) -> int:
    """Print what users said to the answers of two checkpoints, and whether they differ."""
    parser = Parser(
        prog='palm-jax ab-test',
        description=__doc__,
        example='palm-jax ab-test --requests=requests.db --model=intents',
    )
    parser.add_argument('--requests', required=True, help='database of palm-jax serve --keep: a file or a URL')
    parser.add_argument('--model', required=True, help='name of the served model')
    parser.add_argument('--first', help='part of the path of the first checkpoint; default: the first that answered')
    parser.add_argument('--second', help='part of the path of the second checkpoint; default: the other one')
    parser.add_argument('--days', type=number(Annotated[float, Above(0)]), help='only the last days; default: all')
    parser.add_argument('--output', type=file_name('.json'), help='.json file; default: none')
    options = parser.parse_args(arguments)
    if (options.first is None) != (options.second is None):
        raise UserError('Name both checkpoints, --first and --second, or none.')
    if options.output and not options.output.parent.is_dir():
        raise UserError(f'--output: the folder {options.output.parent} does not exist.')

    from palm_jax.monitoring import ab_test, request_log

    since = 0.0 if options.days is None else time.time() - options.days * _DAY
    wanted = [options.first, options.second] if options.first else []
    arms = ab_test.arms(request_log.read(options.requests, options.model, since))
    first, second = ab_test.choose(arms, wanted)
    differences = ab_test.differences(first, second)
    verdict = ab_test.verdict(differences)
    print(_text(first, second, differences, verdict))
    if options.output:
        _write(options.output, first, second, differences, verdict)
        print(f'results    {options.output}')
    return 0


def _text(first: Arm, second: Arm, differences: Sequence[Difference], verdict: str) -> str:
    lines = []
    for name, arm in (('first', first), ('second', second)):
        lines.append(
            f'{name:<10} {arm.checkpoint}: {arm.answers:,} answers, {arm.confirmed:,} confirmed, {arm.corrected:,} '
            f'corrected, {arm.up:,} up, {arm.down:,} down'
        )
    for difference in differences:
        (k1, n1), (k2, n2) = difference.first, difference.second
        lines.append(
            f'{difference.name}: {k1 / n1:.1%} ({k1:,} of {n1:,}) and {k2 / n2:.1%} ({k2:,} of {n2:,}), difference '
            f'{difference.gain:+.1%} (95% interval {difference.lower:+.1%} to {difference.upper:+.1%}), '
            f'p = {difference.p_value:.4g}'
        )
    return '\n'.join([*lines, verdict])


def _write(path: Path, first: Arm, second: Arm, differences: Sequence[Difference], verdict: str) -> None:
    content = {
        'first': dataclasses.asdict(first),
        'second': dataclasses.asdict(second),
        'differences': [dataclasses.asdict(difference) for difference in differences],
        'verdict': verdict,
    }
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + '\n', encoding='utf-8')
