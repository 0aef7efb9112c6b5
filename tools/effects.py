"""python -m tools.effects --base=runs/smollm2 [--data=data/banking77] [--gin.STUDY_SEEDS=[0]]

Measures what every method of docs/methods adds to plain LoRA: trains examples/ablations/effects.gin with
`palm-jax ablate`, and writes its table to EFFECTS.md.
The tables are made of banking77: 25 of its classes, drawn once; of each, ten training texts with labels, drawn by the
seed of the run, and the others without labels; all test texts of these classes. Started again, the command continues
where it was. --page writes the page of what is finished, and trains nothing.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Sequence
from pathlib import Path

from palm_jax.cli import ablate, command_line
from palm_jax.configuration.flags import split_flags
from palm_jax.errors import UserError

STUDY = 'examples/ablations/effects.gin'
RUNS = Path('runs/effects')
CLASSES, LABELS, SEEDS = 25, 10, range(5)

_TITLE = f"""# Effects

What each method adds to LoRA on a pretrained base at equal steps, by `python -m tools.effects` ([the study]({STUDY}),
an arm a line): banking77 with {CLASSES} classes and {LABELS} labels each, the other training texts without labels, and
all test texts of these classes as the held-out part. Rows are drawn by the seed, and runs are compared in pairs of the
same seed. No setting was tuned, for LoRA or for a method; another task, more labels or more steps can change the
ranking. Seconds are those of a shared machine.
"""


def main(arguments: Sequence[str]) -> int:
    """Write the tables, train what is not finished, and write the page."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.effects', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--base', default='runs/smollm2', help='MODEL_DIR of the pretrained model')
    parser.add_argument('--data', type=Path, default=Path('data/banking77'), help='folder of train.csv and test.csv')
    parser.add_argument('--output', type=Path, default=Path('EFFECTS.md'), help='page to write')
    parser.add_argument('--page', action='store_true', help='write the page of what is finished, and train nothing')
    rest, bindings = split_flags(arguments)
    options = parser.parse_args(rest)
    flags = [f'--gin.{name}={value}' for name, value in bindings]
    if not options.page:
        write_tables(options.data, RUNS / 'data')
    if code := ablate.main([STUDY, *flags, *(['--table'] if options.page else [])]):
        return code
    write_page(RUNS / 'ablation.md', options.output)
    print(f'effects    {options.output}')
    return 0


def write_tables(source: Path, folder: Path) -> None:
    """Write `test.csv`, and `labelled_N.csv` and `unlabelled_N.csv` for each seed N, with the columns text and label.

    Args:
      source: folder of banking77's train.csv and test.csv.
      folder: folder for the tables.

    Raises:
      UserError: a file of the source is not there.
    """
    train, test = _read(source / 'train.csv'), _read(source / 'test.csv')
    names = random.Random(0).sample(sorted({row['category'] for row in train}), CLASSES)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / 'test.csv', [row for row in test if row['category'] in names])
    for seed in SEEDS:
        rng, labelled, others = random.Random(seed), [], []
        for name in names:
            rows = [row for row in train if row['category'] == name]
            rng.shuffle(rows)
            labelled += rows[:LABELS]
            others += rows[LABELS:]
        _write(folder / f'labelled_{seed}.csv', labelled)
        _write(folder / f'unlabelled_{seed}.csv', others)


def write_page(table: Path, output: Path) -> None:
    """Write the page: what was compared, and the table of the study."""
    body = table.read_text(encoding='utf-8').partition('\n')[2]
    body = '\n'.join(line for line in body.splitlines() if not line.startswith('!['))
    output.write_text(f'{_TITLE}{body.rstrip()}\n', encoding='utf-8')


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding='utf-8', newline='') as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f'--data: {path} does not exist; it is a table with the columns text and category.') from None


def _write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['text', 'label'])
        writer.writerows((row['text'], row['category']) for row in rows)


if __name__ == '__main__':
    command_line.run(main)
