"""One configuration with several seeds: mean and spread of the results."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from palm_jax.bounds import NotEmpty, Seed
from palm_jax.errors import UserError
from palm_jax.json_files import read_json
from palm_jax.run_directory import RunDirectory, write_whole

_SHOWN = 12  # rows of the table in the terminal
_LOGGER = logging.getLogger(__name__)

Seeds = Annotated[Sequence[Seed], NotEmpty()]


def over_seeds(train: Callable[[int, Path], int], model_dir: Path, seeds: Seeds | None = None) -> int:
    """Train with every seed, in MODEL_DIR/seed_<n>, and summarize the results; finished runs do not train again.

    Args:
      train: function of a seed and its MODEL_DIR that returns an exit code and leaves a summary.json.
      model_dir: directory for `seeds.json` and the runs.
      seeds: distinct seeds.

    Returns:
      0, or the exit code of the run that was interrupted.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f'SEEDS is {seeds}; it must be a list of distinct numbers: [0, 1, 2].')
    summaries, parent = {}, RunDirectory(model_dir)
    for number, seed in enumerate(seeds, 1):
        _LOGGER.info('\n=== seed %d, run %d of %d', seed, number, len(seeds))
        run = parent.seed(seed)
        if code := train(seed, run.path):
            return code
        summaries[seed] = read_json(run.summary)
    table = spread(summaries)
    write_whole(parent.seeds, json.dumps({'seeds': list(seeds), 'measures': table}, indent=2) + '\n')
    _LOGGER.info('\n%s\nsummary    %s', text(table, seeds), parent.seeds)
    return 0


def spread(summaries: Mapping[int, Mapping[str, object]]) -> dict[str, dict[str, float]]:
    """Return mean, sample standard deviation, minimum and maximum of every number that all summaries have."""
    table: dict[str, dict[str, float]] = {}
    for name in next(iter(summaries.values())):
        found = [summary.get(name) for summary in summaries.values()]
        values = [value for value in found if isinstance(value, float)]
        if len(values) < len(found):
            continue
        deviation = statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan
        table[name] = {
            'mean': sum(values) / len(values),
            'deviation': deviation,
            'min': min(values),
            'max': max(values),
        }
    return table


def text(table: Mapping[str, Mapping[str, float]], seeds: Sequence[int]) -> str:
    """Format the table for the terminal."""
    rows = [
        f'{"over seeds " + ", ".join(map(str, seeds)):<28} {"mean":>10} {"± deviation":>12} {"min":>10} {"max":>10}'
    ]
    for name, row in list(table.items())[:_SHOWN]:
        mean, deviation, low, high = row.values()
        rows.append(f'{name.replace("_", " "):<28} {mean:>10.4f} {deviation:>12.4f} {low:>10.4f} {high:>10.4f}')
    return '\n'.join(rows)
