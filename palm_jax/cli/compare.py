"""palm-jax compare runs/first runs/second

Sets two fine-tuned runs side by side on the same held-out examples (their predictions.jsonl) and says
whether they differ: McNemar's exact test on the examples that only one of them gets right, and a
paired bootstrap of the difference. A tagged sentence is right when all its entities are. For numbers
the bootstrap of the absolute error alone, for written texts that of each text's score.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence

import numpy as np
from scipy import stats

from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory

_BOOTSTRAPS = 10_000
_LEVEL = 0.05
_SHOWN = 5
RIGHT = 'accuracy'  # of what is either right or wrong


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two runs on the same examples.

    Attributes:
      first, second: a score an example, higher is better: 1 for right and 0 for wrong, minus
        the absolute error of a number, or the score of a written text.
      measure: what their means are called.
      lower, upper: the 95% interval of mean(second) − mean(first), by resampling examples.
      only_first, only_second: examples that only one of them gets right; None where scores are no such thing.
      p_value: McNemar's, exact and two-sided; None there, too.
    """

    first: np.ndarray
    second: np.ndarray
    measure: str
    lower: float
    upper: float
    only_first: int | None
    only_second: int | None
    p_value: float | None

    @property
    def differ(self) -> bool:
        """Whether the difference is more than chance at 5%: by both tests where there are two."""
        outside = self.lower > 0 or self.upper < 0
        return outside and (self.p_value is None or self.p_value < _LEVEL)


def compare(first: np.ndarray, second: np.ndarray, measure: str = RIGHT, seed: int = 0) -> Comparison:
    """Compares scores [E] of the same examples.

    McNemar (1947), exact: of the b + c examples that one run alone gets right, under no difference
    each run gets half; p = P(Binomial(b + c, 1/2) at least as far from half as b).
    """
    difference = second - first
    rng = np.random.default_rng(seed)
    means = np.array([difference[rng.integers(0, len(difference), len(difference))].mean() for _ in range(_BOOTSTRAPS)])
    lower, upper = np.percentile(means, [100 * _LEVEL / 2, 100 * (1 - _LEVEL / 2)])
    if measure != RIGHT:
        return Comparison(first, second, measure, float(lower), float(upper), None, None, None)
    b, c = int(np.sum(difference < 0)), int(np.sum(difference > 0))
    p = float(stats.binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0
    return Comparison(first, second, measure, float(lower), float(upper), b, c, p)


def report(names: Sequence[str], comparison: Comparison) -> str:
    """The comparison in words."""
    means = [abs(float(scores.mean())) for scores in (comparison.first, comparison.second)]
    gain = comparison.second.mean() - comparison.first.mean()
    lines = [f'{len(comparison.first):,} examples']
    lines += [f'  {name}: {comparison.measure} {mean:.4f}' for name, mean in zip(names, means, strict=True)]
    lines.append(
        f'  the second is better by {gain:+.4f} (95% interval {comparison.lower:+.4f} to {comparison.upper:+.4f})'
    )
    if comparison.p_value is not None:
        lines.append(
            f'  only the first is right: {comparison.only_first}, only the second: {comparison.only_second}; '
            f"McNemar's p = {comparison.p_value:.4g}"
        )
    if comparison.differ:
        lines.append(f'They differ: {names[1] if gain > 0 else names[0]} is better.')
    else:
        lines.append('No difference is shown: what there is may be chance.')
    return '\n'.join(lines)


def read(model_dir: str) -> list[dict]:
    """The predictions of a run."""
    path = RunDirectory(model_dir).predictions
    if not path.is_file():
        raise UserError(f'{path} does not exist; give the MODEL_DIR of a fine-tuned run that has finished.')
    return [json.loads(line) for line in path.read_text().splitlines()]


def scores(rows: Sequence[dict]) -> tuple[np.ndarray, str]:
    """A score an example, higher is better, and what their mean is called."""
    if isinstance(rows[0]['label'], float):
        return -np.array([abs(row['predicted'] - row['label']) for row in rows]), 'mean absolute error'
    if 'score' in rows[0]:
        return np.array([float(row['score']) for row in rows]), 'mean score of a text'
    return np.array([float(row['predicted'] == row['label']) for row in rows]), RIGHT


def main(arguments: Sequence[str]) -> int:
    """Reads both, checks that they are of the same examples, prints."""
    parser = argparse.ArgumentParser(
        prog='palm-jax compare', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('runs', nargs=2, metavar='MODEL_DIR')
    options = parser.parse_args(arguments)
    first, second = map(read, options.runs)
    keys = [[(row['text'], str(row['label'])) for row in rows] for rows in (first, second)]
    if keys[0] != keys[1]:
        place = next((i for i, pair in enumerate(zip(*keys, strict=False)) if pair[0] != pair[1]), min(map(len, keys)))
        shown = [rows[place] if place < len(rows) else 'nothing' for rows in keys]
        raise UserError(
            f'The runs were not measured on the same examples: number {place + 1} is {shown[0]} in {options.runs[0]} '
            f'and {shown[1]} in {options.runs[1]}. Give both the same VALIDATION_FILES.'
        )
    (of_first, measure), (of_second, _) = scores(first), scores(second)
    comparison = compare(of_first, of_second, measure)
    print(report(options.runs, comparison))
    if measure == RIGHT:
        changed = np.flatnonzero(comparison.first != comparison.second)
        for i in changed[:_SHOWN]:
            print(f'  {first[i]["label"]}: {first[i]["predicted"]} / {second[i]["predicted"]} | {first[i]["text"]}')
    return 0
