"""One configuration with several seeds: the mean of what the runs reached, and its spread."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory

_SHOWN = 12


def over_seeds(train: Callable[[int, Path], int], model_dir: Path, seeds: Sequence[int] | None = None) -> int:
    """Runs with every seed, in MODEL_DIR/seed_<n>, and summarises; runs that are finished stay as they are.

    Args:
      train: (seed, its MODEL_DIR) to an exit code; leaves a summary.json.
      model_dir: `seeds.json` goes there.
      seeds: different ones.

    Returns:
      0, or the exit code of the run that was interrupted.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f'SEEDS is {seeds}; it must be a list of different numbers: [0, 1, 2].')
    summaries, parent = {}, RunDirectory(model_dir)
    for number, seed in enumerate(seeds, 1):
        print(f'\n=== seed {seed}, run {number} of {len(seeds)}', flush=True)
        run = parent.seed(seed)
        if code := train(seed, run.path):
            return code
        summaries[seed] = json.loads(run.summary.read_text())
    table = spread(summaries)
    parent.seeds.write_text(json.dumps({'seeds': list(seeds), 'measures': table}, indent=2) + '\n')
    print(f'\n{text(table, seeds)}\nsummary    {parent.seeds}', flush=True)
    return 0


def spread(summaries: Mapping[int, Mapping[str, object]]) -> dict[str, dict[str, float]]:
    """Mean, sample standard deviation, least and most of every number that all summaries have."""
    first, *others = summaries.values()
    table = {}
    for name, value in first.items():
        if not isinstance(value, float) or not all(isinstance(other.get(name), float) for other in others):
            continue
        values = [summary[name] for summary in summaries.values()]
        deviation = statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan
        table[name] = {
            'mean': sum(values) / len(values),
            'deviation': deviation,
            'min': min(values),
            'max': max(values),
        }
    return table


def text(table: Mapping[str, Mapping[str, float]], seeds: Sequence[int]) -> str:
    """The table for the terminal."""
    rows = [
        f'{"over seeds " + ", ".join(map(str, seeds)):<28} {"mean":>10} {"± deviation":>12} {"min":>10} {"max":>10}'
    ]
    for name, row in list(table.items())[:_SHOWN]:
        mean, deviation, low, high = row.values()
        rows.append(f'{name.replace("_", " "):<28} {mean:>10.4f} {deviation:>12.4f} {low:>10.4f} {high:>10.4f}')
    return '\n'.join(rows)
