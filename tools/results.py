"""python -m tools.results --base=runs/smollm2 [--cases=banking77_10] [--methods=lora,full] [--seeds=0,1,2]

Fine-tunes one base with every method on real tasks and several seeds, and writes a page of the results: score, trained
share, time, memory and size of the checkpoint, with a baseline without pretraining on the same rows.
The learning rate of a method is the one of three with the least loss on a fifth of the rows of banking77_10 after a
short search on the others, with the same budget for every method; --rate sets it instead.
The methods zero_shot and few_shot are the base itself without training, where the task can be put into words.
Every finished run is a line of the record (JSON lines), from which the page is made; runs in the record are not
repeated, so an interrupted command can be rerun, also on another machine. --page writes the page alone.
The data of the tasks must be where gin/tasks expects it. Requires `pip install "palm_jax[test]"` (scikit-learn).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from palm_jax.api import loading
from palm_jax.api.trained_model import TrainedModel
from palm_jax.cli import command_line
from palm_jax.cli.parser import positive
from palm_jax.configuration.load import load
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory
from palm_jax.training.writers import read_jsonl
from tools import results_page
from tools.record import Record
from tools.results_base import ANSWERS, SHOTS
from tools.results_baselines import BASELINES
from tools.results_cases import CASES, DEFAULT_CASES, METHODS, WITHOUT_HEAD
from tools.results_page import NO_PRETRAINING

SEARCH_CASE, SEARCH_STEPS = 'banking77_10', 60


def main(arguments: Sequence[str]) -> int:
    """Run what is missing from the record; the page is rewritten after every run."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.results', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--base', help='MODEL_DIR of the pretrained model; required for runs')
    parser.add_argument('--runs', type=Path, default=Path('runs/results'), help='folder for the runs')
    parser.add_argument(
        '--record', type=Path, default=Path('RESULTS.jsonl'), help='record with a line per finished run'
    )
    parser.add_argument('--output', type=Path, default=Path('RESULTS.md'), help='page to write')
    parser.add_argument('--seeds', default='0,1,2', help='comma-separated list')
    parser.add_argument('--cases', default=','.join(DEFAULT_CASES), help=f'comma-separated list of {", ".join(CASES)}')
    parser.add_argument('--methods', default=','.join([*SHOTS, *METHODS]), help='comma-separated list')
    parser.add_argument('--steps', type=positive, help='steps per run; default: those of the case')
    parser.add_argument('--rate', type=float, help='learning rate; default: the best of a search')
    parser.add_argument('--page', action='store_true', help='write the page from the record, and run nothing')
    options = parser.parse_args(arguments)
    record = Record(options.record)
    if not options.page:
        _run_all(options, record)
    results_page.write(record.lines, options.output)
    print(f'results    {options.output}')
    return 0


def _run_all(options: argparse.Namespace, record: Record) -> None:
    cases, methods = options.cases.split(','), options.methods.split(',')
    for names, known in ((cases, CASES), (methods, [*SHOTS, *METHODS])):
        if unknown := [name for name in names if name not in known]:
            raise UserError(f'unknown {", ".join(unknown)}. Known: {", ".join(known)}.')
    if options.base is None or not RunDirectory(options.base).config.is_file():
        raise UserError(f'--base={options.base} is not the MODEL_DIR of a pretrained model.')
    base = Path(options.base).resolve().name
    wanted: list[tuple[str, str, int, int]] = []
    alone: list[dict[str, Any]] = []
    for seed in map(int, options.seeds.split(',')):
        for case in cases:
            steps = options.steps or CASES[case].steps
            drawn = (
                None if CASES[case].per_class is None else seed
            )  # without a draw, the rows of all seeds are the same
            if not record.find(case=case, method=NO_PRETRAINING, seed=drawn):
                record.add(_baseline(case, drawn, options))
            for method in methods:
                if method in SHOTS:
                    asked = {'case': case, 'method': method, 'seed': seed if SHOTS[method] else None}
                    if CASES[case].task in ANSWERS and asked not in alone and not record.find(base=base, **asked):
                        alone.append(asked)
                    continue
                applies = not (CASES[case].task in WITHOUT_HEAD and method == 'head_only')
                if applies and not record.find(base=base, case=case, method=method, seed=seed, steps=steps):
                    wanted.append((case, method, seed, steps))
    if alone:
        model = loading.load(options.base)
        for asked in tqdm(alone, unit='case'):
            record.add(_untrained(model, options=options, **asked))
            results_page.write(record.lines, options.output)
    for case, method, seed, steps in tqdm(wanted, unit='run'):
        rate = options.rate or _best_rate(base, method, options, record)
        record.add(_run(case, method, seed, steps, rate, options))
        results_page.write(record.lines, options.output)


def _best_rate(base: str, method: str, options: argparse.Namespace, record: Record) -> float:
    """Return the learning rate with the least held-out loss in the search, which is made if the record lacks it."""
    rates = METHODS[method].rates
    for rate in rates:
        if not record.find(base=base, case='search', method=method, learning_rate=rate):
            line = _run(SEARCH_CASE, method, 0, SEARCH_STEPS, rate, options, search=True)
            record.add(line | {'case': 'search'})
    tried = [line for line in record.find(base=base, case='search', method=method) if line['learning_rate'] in rates]
    return min(tried, key=lambda line: line['loss'])['learning_rate']


def _run(
    case: str, method: str, seed: int, steps: int, rate: float, options: argparse.Namespace, search: bool = False
) -> dict[str, Any]:
    """Run one fine-tuning; return its line of the record, with the seconds and peak memory of the process."""
    name = f'{method}_{rate:g}' if search else method
    base = Path(options.base).resolve().name
    directory = options.runs / base / ('search' if search else case) / name / f'steps_{steps}' / f'seed_{seed}'
    directory.mkdir(parents=True, exist_ok=True)
    flags: dict[str, Any] = dict(METHODS[method].flags) | CASES[case].flags(options.runs / 'data', seed)
    if search:
        flags |= _fifth_held_out(Path(flags['TRAIN_FILES']), options.runs / 'data')
    flags |= {'SEED': seed, 'LEARNING_RATE': rate, 'TRAIN_STEPS': steps, 'EVAL_PERIOD': steps, 'GROUP_BY_LENGTH': 128}
    flags |= {'INITIAL_CHECKPOINT_PATH': str(options.base), 'MODEL_DIR': str(directory)}
    start = time.monotonic()
    usage = _train(directory / 'output.txt', _gin_files(case, METHODS[method].part or method), flags)
    seconds = time.monotonic() - start
    found = RunDirectory(directory)
    summary = json.loads(found.summary.read_text(encoding='utf-8'))
    losses = [line['train/loss'] for line in read_jsonl(found.metrics) if 'train/loss' in line]
    return {
        'base': base,
        'case': case,
        'method': method,
        'seed': seed,
        'steps': steps,
        'score': round(summary[CASES[case].metric], 4),
        'loss': round(summary['loss'], 4),
        'train_loss': round(losses[-1], 4),
        'trained': summary['trained_parameters'],
        'parameters': summary['parameters'],
        'learning_rate': rate,
        'seconds': round(seconds),
        'gib': round(usage.ru_maxrss / 2**20, 2),
        'checkpoint_mib': round(_size(Path(summary['checkpoint'])) / 2**20, 1),
    }


def _train(output: Path, files: Sequence[str], flags: Mapping[str, Any]) -> Any:
    """Run a training program to its end; return the resources that it used."""
    command = [sys.executable, '-m', 'palm_jax.train', *(f'--gin_file={file}' for file in files)]
    with output.open('w', encoding='utf-8') as file:
        bindings = [f'--gin.{name}={value!r}' for name, value in flags.items()]
        process = subprocess.Popen([*command, *bindings], stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        end = '\n'.join(output.read_text(encoding='utf-8').splitlines()[-5:])
        raise UserError(f'{output.parent} failed. The end of its output:\n{end}')
    return usage


def _gin_files(case: str, part: str = 'lora') -> tuple[str, ...]:
    return 'gin/finetune_lora.gin', f'gin/tasks/{CASES[case].task}.gin', f'gin/peft/{part}.gin'


def _fifth_held_out(train: Path, folder: Path) -> dict[str, str]:
    """Return two files with four fifths and one fifth of the rows of a table, as flags."""
    with train.open(encoding='utf-8', newline='') as file:
        rows = list(csv.reader(file))
    header, rows = rows[0], rows[1:]
    random.Random(0).shuffle(rows)
    parts = {'TRAIN_FILES': rows[len(rows) // 5 :], 'VALIDATION_FILES': rows[: len(rows) // 5]}
    flags = {}
    for name, part in parts.items():
        path = folder / f'search_{name.lower()}.csv'
        with path.open('w', encoding='utf-8', newline='') as file:
            csv.writer(file).writerows([header, *part])
        flags[name] = str(path)
    return flags


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())


def _data(case: str, seed: int | None, options: argparse.Namespace) -> Any:
    flags = CASES[case].flags(options.runs / 'data', seed or 0) | {'INITIAL_CHECKPOINT_PATH': str(options.base)}
    return load('loop.train', _gin_files(case), list(flags.items())).build('loop.train')['data']


def _untrained(
    model: TrainedModel, case: str, method: str, seed: int | None, options: argparse.Namespace
) -> dict[str, Any]:
    """Return the record line of the base itself; the seed draws the examples of the prompt, None without any."""
    start = time.monotonic()
    score = ANSWERS[CASES[case].task](model, _data(case, seed, options), SHOTS[method], seed or 0)
    return {
        'base': Path(options.base).resolve().name,
        'case': case,
        'method': method,
        'score': round(score, 4),
        'seed': seed,
        'steps': 0,
        'seconds': round(time.monotonic() - start),
    }


def _baseline(case: str, seed: int | None, options: argparse.Namespace) -> dict[str, Any]:
    """Return the record line of the baseline of a case: the same rows, no pretraining."""
    name, score = BASELINES[CASES[case].task](_data(case, seed, options))
    return {
        'base': None,
        'case': case,
        'method': NO_PRETRAINING,
        'name': name,
        'score': round(score, 4),
        'seed': seed,
        'steps': None,
    }


if __name__ == '__main__':
    command_line.run(main)
