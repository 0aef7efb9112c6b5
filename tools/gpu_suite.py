"""python -m tools.gpu_suite [--parts=train,attention,decode,peft,trainer,bitwise] [--output=runs/gpu_suite]

All that a GPU machine is asked, in one command of less than ten minutes: the ceilings of matmuls and memory, train
steps and their variants, attention over packed documents, decoding, the cost of fine-tuning methods, the trainer itself
from a file of tokens, and a run that is killed and continued bit for bit. It needs jax, flax, optax and orbax; weights
in int8 are measured where qwix is installed, PyTorch and Transformers where they are.

Every case is a process of its own and, once it has ended, a JSON line in results.jsonl; table.md holds all of them for
BENCHMARKS.md. What the most depends on comes first, variants of it last. The same command again continues with the
cases that are missing, and repeats those that failed.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from palm_jax.cli import command_line
from palm_jax.cli.parser import positive
from palm_jax.errors import UserError
from palm_jax.progress_bar import tqdm
from tools import gpu_suite_cases as cases
from tools.contenders import write
from tools.shapes import SIZES

PARTS = ('ceilings', 'train', 'attention', 'decode', 'peft', 'trainer', 'bitwise')
LARGER = {'1b': ('2b', '8b')}  # sizes that are measured, too, by that of the suite
FIRST, NEXT, LAST = range(3)  # when a case has its turn


class Case(NamedTuple):
    """One measurement.

    Attributes:
      part: part of the suite.
      name: name of its row.
      measure: function that returns the figures.
      turn: `FIRST`, `NEXT` or `LAST`.
      environment: variables of its process, beside those of this one.
    """

    part: str
    name: str
    measure: Callable[[], dict[str, Any]]
    turn: int = FIRST
    environment: Mapping[str, str] = {}


def main(arguments: Sequence[str]) -> int:
    """Measure what is missing; return 1 if a case failed or time was short."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.gpu_suite', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--parts', default=','.join(PARTS), help=f'comma-separated list of {", ".join(PARTS)}')
    parser.add_argument('--output', type=Path, default=Path('runs/gpu_suite'), help='directory of the results')
    parser.add_argument('--seconds', type=float, default=540, help='no case begins after this time')
    parser.add_argument('--size', choices=SIZES, default='1b', help='model of train, decode, peft and trainer')
    parser.add_argument('--batch', type=positive, default=8, help='sequences per step')
    parser.add_argument('--length', type=positive, default=2048, help='tokens per sequence')
    parser.add_argument('--steps', type=positive, default=6, help='timed steps of a case')
    parser.add_argument('--device', choices=('cpu', 'gpu', 'tpu'), help='device; default: the first that jax finds')
    options = parser.parse_args(arguments)
    parts = options.parts.split(',')
    if unknown := [part for part in parts if part not in PARTS]:
        raise UserError(f'--parts: unknown {", ".join(unknown)}. Known: {", ".join(PARTS)}.')
    options.dtype, options.task = 'bfloat16', ''  # fine-tuning has a synthetic batch
    wanted = sorted(all_cases(options, parts), key=lambda case: case.turn)
    return run(wanted, options.output, options.seconds)


def all_cases(options: argparse.Namespace, parts: Sequence[str]) -> Iterator[Case]:
    """Yield the cases of some parts."""
    for part in parts:
        yield from _CASES[part](options)


def _changed(options: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**(vars(options) | changes))


def _jaxlib() -> str:
    return importlib.metadata.version('jaxlib')


def _ceilings(options: argparse.Namespace) -> Iterator[Case]:
    yield Case('ceilings', 'matmul and memory', functools.partial(cases.ceilings, options))


def _train(options: argparse.Namespace) -> Iterator[Case]:
    for name, changes, environment in cases.train_variants(_jaxlib()):
        turn = FIRST if name == cases.AS_IT_IS else LAST
        if not cases.applies(changes.get('attention', 'auto'), options.length):
            continue
        yield Case('train', name, functools.partial(cases.train, _changed(options, **changes)), turn, environment)
    for name, peer, compiled in cases.peers():
        yield Case('train', name, functools.partial(cases.train_peer, options, peer, compiled), NEXT)
    for size in LARGER.get(options.size, ())[:1]:  # half as many sequences: more than 80 GB otherwise
        larger = _changed(options, **cases.PLAIN, size=size, batch=max(1, options.batch // 2))
        yield Case('train', f'{size}, half as many sequences', functools.partial(cases.train, larger), NEXT)


def _attention(options: argparse.Namespace) -> Iterator[Case]:
    longer = _changed(options, length=2 * options.length, batch=max(1, options.batch // 2))
    for name, implementation, documents in cases.ATTENTION:
        if cases.applies(implementation, longer.length):
            yield Case('attention', name, functools.partial(cases.attention, longer, implementation, documents))


def _decode(options: argparse.Namespace) -> Iterator[Case]:
    for weights in ('stored', 'int8') if importlib.util.find_spec('qwix') else ('stored',):
        for batch in (1, 8):
            name = f'{options.size}, {"bfloat16" if weights == "stored" else weights}, batch {batch}'
            turn = FIRST if (weights, batch) == ('stored', 1) else NEXT
            yield Case('decode', name, functools.partial(cases.decode, options, weights, batch), turn)
    for size in LARGER.get(options.size, ()):
        larger = _changed(options, size=size)
        yield Case('decode', f'{size}, bfloat16, batch 1', functools.partial(cases.decode, larger, 'stored', 1), NEXT)
    for setting, environment in cases.flags_of('decode', _jaxlib()):
        name = f'{options.size}, bfloat16, batch 1, {setting}'
        yield Case('decode', name, functools.partial(cases.decode, options, 'stored', 1), LAST, environment)


def _peft(options: argparse.Namespace) -> Iterator[Case]:
    for name in ('full', 'top_k_layers', 'lora'):
        yield Case('peft', name, functools.partial(cases.finetune, options, name), NEXT)


def _trainer(options: argparse.Namespace) -> Iterator[Case]:
    yield Case('trainer', 'from a file of tokens', functools.partial(cases.trainer, options))


def _bitwise(options: argparse.Namespace) -> Iterator[Case]:
    # A checkpoint of a larger size takes longer than everything else.
    smaller = options if options.size in cases.SMALL_CHECKPOINTS else _changed(options, size='400m')
    yield Case('bitwise', f'{smaller.size}, killed and continued', functools.partial(cases.bitwise, smaller))


_CASES: dict[str, Callable[[argparse.Namespace], Iterator[Case]]] = {
    'ceilings': _ceilings,
    'train': _train,
    'attention': _attention,
    'decode': _decode,
    'peft': _peft,
    'trainer': _trainer,
    'bitwise': _bitwise,
}


def run(wanted: Sequence[Case], output: Path, seconds: float) -> int:
    """Run the cases that `output` lacks, as far as the time goes, and write the table.

    Returns:
      0 if every case has figures, else 1; run it again.
    """
    output.mkdir(parents=True, exist_ok=True)
    record, start = output / 'results.jsonl', time.monotonic()
    missing = [case for case in wanted if (case.part, case.name) not in done(record)]
    for case in tqdm(missing, unit='case', leave=False):
        if time.monotonic() - start > seconds:
            break
        began = time.monotonic()
        try:
            result = {**_with_environment(case), 'ok': True}
        except Exception as error:  # one case that fails costs the others nothing
            traceback.print_exc()
            result = {'ok': False, 'error': f'{type(error).__name__}: {error}'[:500]}
        line = {'part': case.part, 'case': case.name, **result, 'seconds': round(time.monotonic() - began, 1)}
        with record.open('a') as file:
            file.write(json.dumps(line) + '\n')
        write(json.dumps({name: value for name, value in line.items() if name != 'kernels'}))
        (output / 'table.md').write_text(table(record))
    left = [case for case in wanted if (case.part, case.name) not in done(record)]
    if left:
        print(f'{len(left)} cases are missing; the same command continues with {left[0].part}: {left[0].name}')
    print(f'{output / "table.md"}')
    return 1 if left else 0


def _with_environment(case: Case) -> dict[str, Any]:
    before = dict(os.environ)
    os.environ.update(case.environment)
    try:
        return case.measure()
    finally:
        os.environ.clear()
        os.environ.update(before)


def done(record: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the cases that have figures, the newest of each; a line that a kill cut short is none."""
    found = {}
    for line in record.read_text().splitlines() if record.exists() else ():
        try:
            result = json.loads(line)
        except json.JSONDecodeError:
            continue
        if result.get('ok'):
            found[result['part'], result['case']] = result
    return found


def table(record: Path) -> str:
    """Return the results as Markdown, a table for each part."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for (part, _), result in done(record).items():
        parts.setdefault(part, []).append(result)
    pages = []
    for part in filter(parts.get, PARTS):
        rows = parts[part]
        hidden = {'part', 'case', 'ok', 'kernels', 'seconds'}
        columns = list(dict.fromkeys(name for row in rows for name in row if name not in hidden))
        lines = [f'| {part} | ' + ' | '.join(column.replace('_', ' ') for column in columns) + ' |']
        lines.append('|---' * (len(columns) + 1) + '|')
        lines += [f'| {row["case"]} | ' + ' | '.join(_cell(c, row.get(c)) for c in columns) + ' |' for row in rows]
        pages.append('\n'.join(lines))
    return '\n\n'.join(pages) + '\n'


def _cell(column: str, value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: 'yes', False: 'no', None: ''}[value]
    if isinstance(value, float):
        shares = ('mfu', 'share', 'ratio')
        return f'{value:.1%}' if column.startswith(shares) else f'{value:,.4g}' if value < 1000 else f'{value:,.0f}'
    return f'{value:,}' if isinstance(value, int) else str(value)


if __name__ == '__main__':
    command_line.run(main)
