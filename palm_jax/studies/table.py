"""The result of an ablation as a table, a page and a plot."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from palm_jax.errors import UserError
from palm_jax.reports import pages, plots
from palm_jax.studies.ablation import Ablation
from palm_jax.studies.paired import Effect, effect, holm
from palm_jax.training.best import is_smaller_better
from palm_jax.wording import counted

_LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Row:
    """An arm of an ablation.

    Attributes:
      arm: name of the arm.
      values: metric of its finished runs, in the order of the seeds.
      effect: difference from the baseline with the same seeds; None for the baseline, or without a common seed.
      adjusted: p-value of the effect after Holm's correction; NaN without one.
      trained_parameters: number of trained parameters; None if nothing is finished.
      seconds: mean duration of its finished runs; None if nothing is finished.
    """

    arm: str
    values: Sequence[float]
    effect: Effect | None
    adjusted: float
    trained_parameters: int | None
    seconds: float | None


def rows(study: Ablation) -> list[Row]:
    """Return the rows of the table of what is finished, the baseline first.

    Raises:
      UserError: nothing is finished.
    """
    measured = study.measured()
    if not any(measured.values()):
        raise UserError(f'{study.directory} holds no finished run of this study.')
    base = measured[study.reference]
    arms = [study.reference, *(arm for arm in study.arms if arm != study.reference)]
    effects: dict[str, Effect | None] = {}
    for arm in arms:
        common = [seed for seed in study.seeds if seed in measured[arm] and seed in base]
        values, baseline = [measured[arm][seed] for seed in common], [base[seed] for seed in common]
        effects[arm] = effect(values, baseline) if common and arm != study.reference else None
    p_values = [found.p_value if (found := effects[arm]) else math.nan for arm in arms]
    return [
        Row(arm, list(measured[arm].values()), effects[arm], adjusted, *study.costs(arm))
        for arm, adjusted in zip(arms, holm(p_values), strict=True)
    ]


def cells(study: Ablation, table: Sequence[Row]) -> list[list[str]]:
    """Return the cells of the table; the first row is its header."""
    header = ['arm', study.metric, 'runs', 'effect', '95% interval', 'p', 'p (Holm)', 'trained', 'seconds', 'verdict']
    return [header, *(_cells(study, row) for row in table)]


def _cells(study: Ablation, row: Row) -> list[str]:
    spread = f' ± {statistics.stdev(row.values):.4f}' if len(row.values) > 1 else ''
    mean = f'{statistics.fmean(row.values):.4f}{spread}' if row.values else 'n/a'
    found, number = row.effect, lambda value, form: 'n/a' if math.isnan(value) else format(value, form)
    middle = ['baseline' if row.arm == study.reference else 'n/a', '', '', '']
    if found is not None:
        interval = 'n/a' if math.isnan(found.lower) else f'{found.lower:+.4f} to {found.upper:+.4f}'
        middle = [f'{found.mean:+.4f}', interval, number(found.p_value, '.3g'), number(row.adjusted, '.3g')]
    trained = 'n/a' if row.trained_parameters is None else f'{row.trained_parameters:,}'
    seconds = 'n/a' if row.seconds is None else f'{row.seconds:.0f}'
    return [row.arm, mean, f'{len(row.values)}/{len(study.seeds)}', *middle, trained, seconds, verdict(study, row)]


def verdict(study: Ablation, row: Row) -> str:
    """Return what the table says of an arm."""
    if row.effect is None:
        return ''
    if math.isnan(row.adjusted):
        return 'one seed: no test'
    if row.adjusted >= _LEVEL:
        return 'no significant difference'
    return 'better' if (row.effect.mean < 0) == is_smaller_better(study.metric) else 'worse'


def text(table: Sequence[Sequence[str]]) -> str:
    """Return a table for the terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return '\n'.join('  '.join(map(str.ljust, row, widths)).rstrip() for row in table)


def write(study: Ablation, table: Sequence[Row]) -> list[Path]:
    """Write the table to the study's directory: `ablation.json`, `.md`, `.html` and `.png`; return the paths."""
    folder, title = Path(study.directory), f'Ablation: {study.metric} against {study.reference}'
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f'ablation.{suffix}' for suffix in ('json', 'md', 'html', 'png')]
    record = {
        'metric': study.metric,
        'baseline': study.reference,
        'seeds': list(study.seeds),
        'flags': list(study.flags),
        'arms': [dataclasses.asdict(row) | {'flags': list(study.arms[row.arm])} for row in table],
    }
    paths[0].write_text(json.dumps(record, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
    plots.plot_effects([(row.arm, row.effect.mean, row.effect.lower, row.effect.upper) for row in table if row.effect],
                       f'{study.metric} minus that of {study.reference}', paths[3])  # fmt: skip
    tables = {
        f'Effects over {counted(len(study.seeds), "seed")}': cells(study, table),
        'Flags': [['arm', 'flags'], ['all', ' '.join(study.flags)], *([a, ' '.join(f)] for a, f in study.arms.items())],
    }
    pictures, unfinished = [paths[3].name], sum(len(study.seeds) - len(row.values) for row in table)
    warnings = [f'{counted(unfinished, "run")} of {len(study.runs())} without a result yet.'] if unfinished else []
    paths[1].write_text(pages.markdown(title, tables, pictures, warnings), encoding='utf-8')
    paths[2].write_text(pages.html_page(title, tables, pictures, warnings), encoding='utf-8')
    return paths
