"""python -m tools.effects --base=runs/smollm2 [--data=data] [--study=labels] [--gin.STUDY_SEEDS=[0]]

Measures what every method of docs/methods adds to plain LoRA: trains the studies in examples/ablations with
`palm-jax ablate`, and writes their tables to EFFECTS.md. `labels` is banking77 (25 of its classes, drawn once; of each,
ten training texts with labels and the others without; all test texts of these classes), `tags` wnut17, `text` e2e_nlg
with a teacher that is trained first. Rows are drawn by the seed of the run. Every finished run becomes a line of the
record (JSON lines); runs in the record are not repeated, so the command can be started again, also on another machine.
--page writes the page of what is finished, and trains nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from palm_jax.cli import ablate, command_line, studies
from palm_jax.configuration.compose import render
from palm_jax.configuration.flags import split_flags
from palm_jax.run_directory import write_whole
from palm_jax.studies import ablation
from palm_jax.studies.ablation import Ablation
from palm_jax.studies.runs import StudyRun
from tools import effects_tables
from tools.effects_tables import CLASSES, INPUTS, LABELS, PAIRS, SENTENCES, TEACHER_PAIRS, TEST_PAIRS, TEST_SENTENCES
from tools.record import Record

TABLES = Path('runs/effects/data')
_BASE = 'runs/smollm2'  # in the studies


@dataclasses.dataclass(frozen=True)
class Study:
    """One of the studies.

    Attributes:
      path: its gin file.
      directory: its STUDY_DIR.
      title: title of its section.
      about: what the runs train on.
    """

    path: str
    directory: Path
    title: str
    about: str


STUDIES = {
    'labels': Study(
        'examples/ablations/effects.gin',
        Path('runs/effects'),
        'A class per text',
        f'banking77 with {CLASSES} classes and {LABELS} labels each, the other training texts without labels, and all '
        'test texts\nof these classes as the held-out part. The learning rate is the best of five for LoRA, seed 0.',
    ),
    'tags': Study(
        'examples/ablations/effects_tags.gin',
        Path('runs/effects_tags'),
        'A tag per word',
        f'{SENTENCES} sentences of wnut17, and {TEST_SENTENCES} of its development part as the held-out part.',
    ),
    'text': Study(
        'examples/ablations/effects_text.gin',
        Path('runs/effects_text'),
        'Generated text',
        f'{PAIRS} inputs of e2e_nlg with a sentence each, {INPUTS} without, and {TEST_PAIRS} as the held-out part; '
        f'the teacher is the same base\nwith LoRA on up to {TEACHER_PAIRS:,} other inputs.',
    ),
}

_TITLE = """# Effects

What each method adds to LoRA on a pretrained base at equal steps, by `python -m tools.effects`. Rows are drawn by the
seed, and runs are compared in pairs of the same seed. No setting of a method was tuned; another task, more labels or
more steps can change the ranking. Seconds are those of a shared machine; of an interrupted run, those since then.
"""


def main(arguments: Sequence[str]) -> int:
    """Write the tables, train what is not finished, and write the page."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.effects', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--base', default=_BASE, help='MODEL_DIR of the pretrained model')
    parser.add_argument('--data', type=Path, default=Path('data'), help='folder of banking77, wnut17 and e2e_nlg')
    parser.add_argument('--study', action='append', choices=list(STUDIES), help='study to run; default: all')
    parser.add_argument('--output', type=Path, default=Path('EFFECTS.md'), help='page to write')
    parser.add_argument(
        '--record', type=Path, default=Path('EFFECTS.jsonl'), help='record with a line per finished run'
    )
    parser.add_argument('--page', action='store_true', help='write the page of what is finished, and train nothing')
    rest, bindings = split_flags(arguments)
    options = parser.parse_args(rest)
    record = Record(options.record)
    for name in options.study or STUDIES:
        study = STUDIES[name]
        flags = [*_with_base(study, options.base), *bindings]
        runs = Ablation(**studies.read_study(study.path, flags, 'ablation.Ablation', study.path, ablation.OWN)).runs()
        synchronize(runs, record)
        if options.page and not any(run.is_finished for run in runs):
            continue
        if not options.page:
            _write_tables(name, options.data, options.base)
        try:
            of_study = [study.path, *(f'--gin.{macro}={value}' for macro, value in flags)]
            if code := ablate.main([*of_study, *(['--table'] if options.page else [])]):
                return code
        finally:
            synchronize(runs, record)
        write_page(options.output)
    print(f'effects    {options.output}')
    return 0


def synchronize(runs: Sequence[StudyRun], record: Record) -> None:
    """Add to the record what has finished since, and give to the runs that it holds their summaries.

    A line belongs to a run with the same flags; after a change of the study, its runs are trained again.
    """
    for run in runs:
        key = {'run': run.name, 'flags': list(run.flags)}
        lines, summary = record.find(**key), run.summary()
        if summary is not None and not lines:
            numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
            record.add(key | {'summary': numbers})
        elif summary is None and lines and not run.directory.is_begun:
            run.begin()
            write_whole(run.directory.summary, json.dumps(lines[-1]['summary'], indent=2) + '\n')


def write_page(output: Path) -> None:
    """Write the page: what was compared, and the tables of the studies that have some."""
    sections = [_TITLE]
    for study in STUDIES.values():
        table = study.directory / 'ablation.md'
        if table.is_file():
            body = table.read_text(encoding='utf-8').partition('\n')[2]
            lines = [f'#{line}' if line.startswith('##') else line for line in body.splitlines()]
            body = '\n'.join(line for line in lines if not line.startswith('![')).strip()
            about = f'[The study]({study.path}), an arm a line: {study.about}'
            sections.append(f'## {study.title}\n\n{about}\n\n{body}\n')
    output.write_text('\n'.join(sections), encoding='utf-8')


def _write_tables(name: str, data: Path, base: str) -> None:
    match name:
        case 'labels':
            effects_tables.write_labels(data, TABLES)
        case 'tags':
            effects_tables.write_tags(data, TABLES)
        case 'text':
            effects_tables.write_text(data, TABLES, base)


def _with_base(study: Study, base: str) -> list[tuple[str, str]]:
    """Return the bindings with which a study starts from another base than the one in its file."""
    if base == _BASE:
        return []
    shared = studies.read_study(study.path, [], 'ablation.Ablation', study.path, ablation.OWN)['flags']
    prefix = '--gin.INITIAL_CHECKPOINT_PATH='
    changed = [f'{prefix}{base}' if flag.startswith(prefix) else flag for flag in shared]
    return [('FLAGS', render(changed))]


if __name__ == '__main__':
    command_line.run(main)
