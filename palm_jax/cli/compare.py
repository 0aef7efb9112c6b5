"""palm-jax compare runs/first runs/second

Compares two fine-tuned runs on the same validation examples (their predictions.jsonl), and tests whether they
differ: McNemar's exact test on the examples that only one of them gets right, and a paired bootstrap of the
difference. A tagged sentence is right if all of its entities are. The absolute errors of numbers and the scores of
generated texts are compared by the paired permutation test instead of McNemar's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from palm_jax.cli.parser import Parser
from palm_jax.errors import UserError
from palm_jax.json_files import read_json_lines
from palm_jax.metrics.comparison import ACCURACY, Comparison, compare
from palm_jax.run_directory import RunDirectory
from palm_jax.wording import counted

_SHOWN = 5


def report(names: Sequence[str], comparison: Comparison) -> str:
    """Return a report of the comparison."""
    means = [abs(float(scores.mean())) for scores in (comparison.first, comparison.second)]
    gain = comparison.gain
    lines = [counted(len(comparison.first), 'example')]
    lines += [f'  {name}: {comparison.metric} {mean:.4f}' for name, mean in zip(names, means, strict=True)]
    lines.append(f'  {_difference(gain, comparison)}')
    if comparison.only_first is not None:
        lines.append(
            f'  only the first is right: {comparison.only_first}, only the second: {comparison.only_second}; '
            f"McNemar's p = {comparison.p_value:.4g}"
        )
    else:
        lines.append(f'  p = {comparison.p_value:.4g} by {comparison.test}')
    if comparison.differ:
        lines.append(f'They differ: {names[1] if gain > 0 else names[0]} is better.')
    else:
        lines.append('No significant difference.')
    return '\n'.join(lines)


def _difference(gain: float, comparison: Comparison) -> str:
    """Return which run is better by how much, or that neither is."""
    low, high = comparison.lower, comparison.upper
    if not np.any(comparison.first != comparison.second):
        return 'both score the same on every example'
    if gain == 0:
        return f'both score the same on average (95% interval of the difference {low:+.4f} to {high:+.4f})'
    better, interval = ('second', (low, high)) if gain > 0 else ('first', (-high, -low))
    if not np.isfinite(low):
        return f'the {better} is better by {abs(gain):.4g}, on a single example'
    digits = max(4, 1 - math.floor(math.log10(abs(gain))))  # a small difference is not shown as 0.0000
    return f'the {better} is better by {abs(gain):.{digits}f} (95% interval {interval[0]:+.4f} to {interval[1]:+.4f})'


def read(model_dir: str) -> list[dict]:
    """Return the predictions of a run."""
    run = RunDirectory(Path(model_dir))
    path = run.predictions
    if run.summary.is_file() and not path.is_file():
        raise UserError(
            f'{run} has no {path.name}: text alone and embeddings have no right answers on which runs could be '
            f'compared one by one. Compare the numbers of {run.summary.name}, or of palm-jax eval.'
        )
    if not path.is_file():
        raise UserError(f'{path} does not exist; name the MODEL_DIR of a finished fine-tuning run.')
    rows = read_json_lines(path)
    if not rows:
        raise UserError(f'{path} is empty: finish the run, whose command writes it again.')
    if 'cosine' in rows[0]:
        raise UserError(
            f'{path} has cosines of embeddings beside scores of people, which are compared as ranks, not one by one. '
            f'Compare the spearman of {run.summary.name} with its interval.'
        )
    wanted = ('text', 'label', 'score' if 'score' in rows[0] else 'predicted')
    for number, row in enumerate(rows, 1):
        if lacking := [name for name in wanted if name not in row]:
            raise UserError(f'{path}, line {number} is damaged: it has no {lacking[0]!r}.')
    return rows


def scores(rows: Sequence[dict]) -> tuple[np.ndarray, str]:
    """Return a score per example, higher is better, and the name of their mean."""
    if isinstance(rows[0]['label'], float):
        return -np.array([abs(row['predicted'] - row['label']) for row in rows]), 'mean absolute error'
    if 'score' in rows[0]:
        return np.array([float(row['score']) for row in rows]), 'mean score per text'
    return np.array([float(row['predicted'] == row['label']) for row in rows]), ACCURACY


def main(arguments: Sequence[str]) -> int:
    """Compare two runs, after a check that their examples are the same."""
    parser = Parser(prog='palm-jax compare', description=__doc__, example='palm-jax compare runs/first runs/second')
    parser.add_argument('runs', nargs=2, metavar='MODEL_DIR', help='directory of a finished fine-tuning run')
    options = parser.parse_args(arguments)
    first, second = map(read, options.runs)
    keys = [[(row['text'], str(row['label'])) for row in rows] for rows in (first, second)]
    if keys[0] != keys[1]:
        index = next((i for i, pair in enumerate(zip(*keys, strict=False)) if pair[0] != pair[1]), min(map(len, keys)))
        shown = [rows[index] if index < len(rows) else 'nothing' for rows in keys]
        raise UserError(
            f'The runs were evaluated on different examples: number {index + 1} is {shown[0]} in {options.runs[0]} '
            f'and {shown[1]} in {options.runs[1]}. Use the same VALIDATION_FILES for both.'
        )
    (of_first, metric), (of_second, _) = scores(first), scores(second)
    comparison = compare(of_first, of_second, metric)
    print(report(options.runs, comparison))
    if metric == ACCURACY:
        changed = np.flatnonzero(comparison.first != comparison.second)
        for i in changed[:_SHOWN]:
            print(f'  {first[i]["label"]}: {first[i]["predicted"]} / {second[i]["predicted"]} | {first[i]["text"]}')
    return 0
