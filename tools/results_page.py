"""The page of `tools.results`: a table per base and case, and the score against the number of labels as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from palm_jax.reports import plots
from tools.results_base import NUM_HELD_OUT, SHOTS
from tools.results_cases import CASES, METHODS

NO_PRETRAINING = 'no pretraining'  # method of a baseline in the record
CURVE = ('banking77_5', 'banking77_10', 'banking77_20', 'banking77_50', 'banking77')
_CURVES = {'lora': 'LoRA', 'full': 'everything', NO_PRETRAINING: 'TF-IDF with logistic regression'}
_BY_HAND = 'tiny'  # the base of the appendix: five minutes of pretraining


def write(record: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the page, and the picture beside it where the record has at least two points of a curve.

    Args:
      record: lines of RESULTS.jsonl.
      path: file of the page; the picture is docs/labels.png beside it.
    """
    bases = list(dict.fromkeys(line['base'] for line in record if line['base'] and line['case'] != 'search'))
    bases.sort(key=lambda base: base == _BY_HAND)
    lines = ['# Results', '', 'Every run is a line of RESULTS.jsonl, which `python -m tools.results` continues.']
    if _plot(record, bases[0], path.parent / 'docs' / 'labels.png'):
        lines += ['', f'![Accuracy on banking77 by the number of labels per class, base {bases[0]}](docs/labels.png)']
    for base in bases:
        title = f'Base `{base}`' if base != _BY_HAND else 'Appendix: a base of five minutes, `tiny`'
        lines += ['', f'## {title}', '', *_about(record, base)]
        for case in CASES:
            of_case = [line for line in record if line['base'] == base and line['case'] == case]
            if of_case:
                lines += ['', f'### {_title(case)}', '', *_table(of_case, _baselines(record, case))]
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def _about(record: Sequence[dict[str, Any]], base: str) -> list[str]:
    of_base = [line for line in record if line['base'] == base and line['case'] != 'search']
    runs = [line for line in of_base if line['method'] not in SHOTS]
    searched = {(x['method'], x['learning_rate']) for x in record if x['base'] == base and x['case'] == 'search'}
    by_hand = [line for line in runs if searched and (line['method'], line['learning_rate']) not in searched]
    rates = (
        'Learning rates are the best of three after 60 steps on four fifths of the rows of banking77 with ten labels a '
        'class, by the loss on the other fifth.'
        if searched
        else 'Learning rates were given by hand; others may change the ranking.'
    )
    if by_hand:
        names = dict.fromkeys(f'{line["method"]} on {_title(line["case"])}' for line in by_hand)
        rates += f' Given by hand: those of {"; ".join(names)}.'
    untrained = ''
    if len(runs) < len(of_base):
        untrained = (
            f' Without training, the base answers {NUM_HELD_OUT} held-out inputs, drawn once for all: of classes it '
            'takes the name with the largest likelihood per byte, texts it decodes greedily. A few-shot prompt begins '
            f'with {SHOTS["few_shot"]} training examples, drawn by the seed.'
        )
    notes = ''.join(f' {note}.' for note in sorted({line['note'] for line in runs if 'note' in line}))
    bits = [line['base_bits_per_byte'] for line in runs if 'base_bits_per_byte' in line]
    quality = f' The base reaches {_all(bits)} bits per byte on its own held-out text.' if bits else ''
    return [
        f'{_all(line["machine"] for line in of_base)}.{quality} Runs are steps of 32 examples.{notes} Score: mean ± '
        f'standard deviation over the seeds named; where labels are drawn, the seed draws them. {rates} The training '
        'loss at the end says how far a run has converged. Seconds are those of the whole command, start, evaluation '
        'and report included, medians on a shared machine; memory is the peak of the process.'
        f'{untrained}'
    ]


def _title(case: str) -> str:
    found = CASES[case]
    if found.per_class is not None:
        return f'{found.task}, {found.per_class} labels a class'
    return found.task if found.held_out_inputs is None else f'{found.task}, {found.held_out_inputs} held-out inputs'


def _baselines(record: Sequence[dict[str, Any]], case: str) -> list[dict[str, Any]]:
    return [line for line in record if line['case'] == case and line['method'] == NO_PRETRAINING]


def _table(runs: Sequence[dict[str, Any]], baselines: Sequence[dict[str, Any]]) -> list[str]:
    metric = CASES[runs[0]['case']].metric
    columns: dict[str, Callable[[list[dict[str, Any]]], str]] = {
        'trained': lambda lines: lines[0]['method'],
        'parameters of it': lambda lines: (
            f'{lines[0]["trained"]:,} ({lines[0]["trained"] / lines[0]["parameters"]:.2%})'
        ),
        'learning rate': lambda lines: _all(f'{line["learning_rate"]:.2g}' for line in lines),
        'steps': lambda lines: _all(line['steps'] for line in lines),
        metric.replace('_', ' '): lambda lines: _score(lines, metric),
        'training loss': lambda lines: _mean(lines, 'train_loss', '.2f'),
        'seeds': lambda lines: ', '.join(str(line['seed']) for line in lines),
        's': lambda lines: f'{statistics.median(line["seconds"] for line in lines):.0f}',
        'GiB': lambda lines: f'{max(line["gib"] for line in lines):.2f}',
        'checkpoint, MiB': lambda lines: _mean(lines, 'checkpoint_mib', '.1f'),
    }
    of = lambda method: [line for line in runs if line['method'] == method]  # noqa: E731
    lengths = sorted({line['steps'] for line in runs if line['method'] in METHODS})
    groups = [[line for line in of(method) if line['steps'] == steps] for method in METHODS for steps in lengths]
    rows = [[cell(lines) for cell in columns.values()] for lines in groups if lines]
    others = {f'*no training:* {method.replace("_", "-")}': of(method) for method in SHOTS}
    if baselines:
        others[f'*no pretraining:* {baselines[0]["name"]}'] = baselines
    for name, lines in others.items():
        if lines:
            cells = {next(iter(columns)): name, metric.replace('_', ' '): _score(lines, metric)}
            cells['seeds'] = ', '.join(str(line['seed']) for line in lines if line['seed'] is not None)
            rows.append([cells.get(column, '') for column in columns])
    shown = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    table = [list(columns), ['---'] * len(columns), *rows]
    return [f'| {" | ".join(row[i] for i in shown)} |' for row in table]


def _score(lines: Sequence[dict[str, Any]], metric: str) -> str:
    digits, scores = '.1f' if metric == 'bleu' else '.3f', [line['score'] for line in lines]  # of 100, of 1
    spread = f' ± {statistics.stdev(scores):{digits}}' if len(scores) > 1 else ''
    return f'{statistics.mean(scores):{digits}}{spread}'


def _mean(lines: Sequence[dict[str, Any]], name: str, digits: str) -> str:
    values = [line[name] for line in lines if line.get(name) is not None]
    return f'{statistics.mean(values):{digits}}' if values else ''


def _all(values: Iterable[Any]) -> str:
    return ' or '.join(sorted({str(value) for value in values}))


def _longest(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs of a method with the most steps."""
    most = max(line['steps'] or 0 for line in lines)
    return [line for line in lines if (line['steps'] or 0) == most]


def _plot(record: Sequence[dict[str, Any]], base: str, path: Path) -> bool:
    """Draw the mean score by the labels a class, and return whether there were points enough."""
    curves: dict[str, list[float]] = {}
    for method, name in _CURVES.items():
        of = None if method == NO_PRETRAINING else base
        found = [
            [line for line in record if (line['base'], line['case'], line['method']) == (of, case, method)]
            for case in CURVE
        ]
        if all(found):
            curves[name] = [statistics.mean(line['score'] for line in _longest(lines)) for lines in found]
    if len(curves) < 2:
        return False
    path.parent.mkdir(exist_ok=True)
    names = [str(CASES[case].per_class or 'all') for case in CURVE]
    plots.plot_curves(names, curves, 'labels a class of banking77', path)
    return True
