"""palm-jax fuse runs/seed_0 runs/seed_1 runs/fused [--method=ties]"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from palm_jax.bounds import Above, AtLeast, AtMost, Below
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, number
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory

if TYPE_CHECKING:
    from palm_jax.api.fusion import Candidate

_METHODS = ('soup', 'wise-ft', 'ties', 'dare')
_OF_METHOD = {'alpha': 'wise-ft', 'density': 'ties', 'drop_rate': 'dare'}
_SHOWN = 4  # metrics in the terminal


def main(arguments: Sequence[str]) -> int:
    """Merge runs, compare the result with its members and their ensemble, and write it."""
    parser = Parser(
        prog='palm-jax fuse',
        description=(
            'Merges the parameters of several models that were fine-tuned from one base, and writes the result as a\n'
            'new MODEL_DIR. Members, ensemble (the mean of their predictions) and result are compared on the held-out\n'
            'part of the first.'
        ),
        example='palm-jax fuse runs/seed_0 runs/seed_1 runs/fused --method=ties',
    )
    parser.add_argument('paths', nargs='+', metavar='MODEL_DIR', help='directories of the runs, and last the new one')
    parser.add_argument('--method', choices=_METHODS, default='soup', help='way to merge')
    parser.add_argument('--alpha', type=number(Annotated[float, AtLeast(0), AtMost(1)]), default=0.5,
                        help='wise-ft: weight of the members, 0 is the base')  # fmt: skip
    parser.add_argument('--density', type=number(Annotated[float, Above(0), AtMost(1)]), default=0.2,
                        help='ties: share of the values of a task vector that are kept')  # fmt: skip
    parser.add_argument('--drop_rate', type=number(Annotated[float, AtLeast(0), Below(1)]), default=0.9,
                        help='dare: share of the values of a task vector that are dropped')  # fmt: skip
    parser.add_argument('--greedy', metavar='METRIC',
                        help='add members, the best first, as long as this held-out metric does not get worse; '
                        'default: all')  # fmt: skip
    command_line.add_trust(parser)
    options = parser.parse_args(arguments)
    *runs, new = options.paths
    if len(runs) < 2:
        raise UserError('fuse MODEL_DIR MODEL_DIR... NEW: name at least two runs, and last the new directory.')
    for name, method in _OF_METHOD.items():
        if options.method != method and any(a.partition('=')[0] == f'--{name}' for a in arguments):
            raise UserError(
                f'--{name} has no effect with --method={options.method}; add --method={method}, or drop it.'
            )
    target = RunDirectory(Path(new))
    if target.config.exists() or target.steps():
        raise UserError(f'{new} holds a run already. The new directory comes last; name another.')

    from palm_jax.api import fusion
    from palm_jax.fusion import merging

    merges: dict[str, merging.Soup | merging.WiSEFT | merging.TIES | merging.DARE] = {
        'soup': merging.Soup(),
        'wise-ft': merging.WiSEFT(options.alpha),
        'ties': merging.TIES(options.density),
        'dare': merging.DARE(options.drop_rate),
    }
    merge = merges[options.method]
    models = fusion.load_members(runs, options.trust_modules)
    fused = fusion.fuse(runs, models, merge, options.greedy)
    print(_table(fused.candidates))
    if len(fused.members) < len(runs):
        print(f'members    {", ".join(fused.members)}')
    print(f'checkpoint {fused.save(new)}')
    content = {
        'method': options.method,
        'settings': dataclasses.asdict(merge),
        'members': fused.members,
        'candidates': [
            {'name': c.name, 'metrics': c.metrics, 'seconds': c.seconds, 'passes_per_answer': c.cost}
            for c in fused.candidates
        ],
    }
    (target.path / 'fusion.json').write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
    return 0


def _table(candidates: Sequence[Candidate]) -> str:
    names = [name for name in candidates[0].metrics if all(name in c.metrics for c in candidates)][:_SHOWN]
    rows = [['', *names, 'passes per answer', 'seconds']]
    for candidate in candidates:
        values = [f'{candidate.metrics[name]:.4f}' for name in names]
        rows.append([candidate.name, *values, str(candidate.cost), f'{candidate.seconds:.1f}'])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join('  '.join(map(str.ljust, row, widths)).rstrip() for row in rows)
