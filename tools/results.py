"""python -m tools.results --base=runs/tiny [--seeds=0,1,2] [--tasks=banking77] [--methods=lora,full] [--steps=300]

Fine-tunes one base with every method on real tasks and several seeds, and writes a table of the results: score,
trained share, time and memory, with a baseline without pretraining on the same validation split. Every finished run is
a line of the record (JSON lines), from which the table is made; runs in the record are not repeated, so an interrupted
command can be rerun, also on another machine.
The data of the tasks must be where gin/tasks expects it. Requires `pip install "palm_jax[test]"` (scikit-learn).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from palm_jax import __version__
from palm_jax.cli import command_line
from palm_jax.cli.parser import positive
from palm_jax.configuration.load import load
from palm_jax.errors import UserError
from palm_jax.metrics import entities
from palm_jax.metrics import texts as text_metrics
from palm_jax.metrics.statistics import entity_counts, precision_recall_f1
from palm_jax.run_directory import RunDirectory

# Flags per method; the learning rates were not tuned.
METHODS = {
    'full': {'LEARNING_RATE': 1e-3},
    'top_k_layers': {'LEARNING_RATE': 1e-3},
    'lora': {'LEARNING_RATE': 3e-3},
    'dora': {'LEARNING_RATE': 3e-3},
    'adalora': {'LEARNING_RATE': 1e-2},
    'adapter': {'LEARNING_RATE': 3e-3},
    'prefix': {'LEARNING_RATE': 1e-2},
    'prompt': {'LEARNING_RATE': 3e-2},
    'ia3': {'LEARNING_RATE': 1e-2},
    'bitfit': {'LEARNING_RATE': 1e-2},
    'norms_only': {'LEARNING_RATE': 1e-2},
    'embeddings_only': {'LEARNING_RATE': 1e-3},
    'head_only': {'LEARNING_RATE': 1e-2},
}
TASKS = {'banking77': 'accuracy', 'wnut17': 'entity_f1', 'e2e_nlg': 'bleu'}
WITHOUT_HEAD = ('e2e_nlg',)  # without a head, head_only does not apply
NO_PRETRAINING = 'no pretraining'  # method of a baseline in the record


def main(arguments: Sequence[str]) -> int:
    """Run what is missing from the record; the table is rewritten after every run."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.results', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--base', required=True, help='MODEL_DIR of the pretrained model')
    parser.add_argument('--runs', type=Path, default=Path('runs/results'), help='folder for the runs')
    parser.add_argument(
        '--record', type=Path, default=Path('RESULTS.jsonl'), help='record with a line per finished run'
    )
    parser.add_argument('--output', type=Path, default=Path('RESULTS.md'), help='table to write')
    parser.add_argument('--seeds', default='0,1,2', help='comma-separated list')
    parser.add_argument('--tasks', default=','.join(TASKS), help='comma-separated list')
    parser.add_argument('--methods', default=','.join(METHODS), help='comma-separated list')
    parser.add_argument('--steps', type=positive, default=300, help='steps per run')
    options = parser.parse_args(arguments)
    tasks, methods = options.tasks.split(','), options.methods.split(',')
    for names, known in ((tasks, TASKS), (methods, METHODS)):
        if unknown := [name for name in names if name not in known]:
            raise UserError(f'unknown {", ".join(unknown)}. Known: {", ".join(known)}.')
    if not RunDirectory(options.base).summary.is_file():
        raise UserError(f'--base={options.base} is not a finished run.')
    record = read(options.record)
    made = {(line['task'], line['method'], line['seed']) for line in record if line['steps'] == options.steps}
    wanted = [
        (task, method, int(seed))
        for seed, task, method in itertools.product(options.seeds.split(','), tasks, methods)
        if not (task in WITHOUT_HEAD and method == 'head_only')
    ]
    for task, method, seed in tqdm([run for run in wanted if run not in made], unit='run'):
        directory = options.runs / task / method / f'seed_{seed}'
        lines = [run(directory, task, method, seed, options)]
        if not any(line['task'] == task and line['method'] == NO_PRETRAINING for line in record):
            lines.append(baseline(directory, task, options))
        with options.record.open('a') as file:
            file.writelines(json.dumps(line) + '\n' for line in lines)
        record += lines
        options.output.write_text(page(record))
    options.output.write_text(page(record))
    print(f'results    {options.output}')
    return 0


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of the record, none if it does not exist."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []


def run(directory: Path, task: str, method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run one fine-tuning; return its line of the record, with the seconds and peak memory of the process."""
    flags = METHODS[method] | {'SEED': seed, 'TRAIN_STEPS': options.steps, 'EVAL_PERIOD': options.steps}
    flags |= {'INITIAL_CHECKPOINT_PATH': str(options.base), 'MODEL_DIR': str(directory)}
    files = ('gin/finetune_lora.gin', f'gin/tasks/{task}.gin', f'gin/peft/{method}.gin')
    command = [sys.executable, '-m', 'palm_jax.train', *(f'--gin_file={file}' for file in files)]
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / 'output.txt').open('w') as output:
        start = time.monotonic()
        flags_given = [f'--gin.{name}={value!r}' for name, value in flags.items()]
        process = subprocess.Popen([*command, *flags_given], stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise UserError(
            f'{task}, {method}, seed {seed} failed. The end of its output:\n{_end(directory / "output.txt")}'
        )
    summary = json.loads(RunDirectory(directory).summary.read_text())
    return {
        'task': task,
        'method': method,
        'seed': seed,
        'steps': options.steps,
        'score': round(summary[TASKS[task]], 4),
        'trained': summary['trained_parameters'],
        'parameters': summary['parameters'],
        'learning_rate': METHODS[method]['LEARNING_RATE'],
        'seconds': round(time.monotonic() - start),
        'gib': round(usage.ru_maxrss / 2**20, 2),
        'base_bits_per_byte': round(json.loads(RunDirectory(options.base).summary.read_text())['bits_per_byte'], 3),
        'machine': f'palm_jax {__version__}, jax {jax.__version__}, {os.cpu_count()} CPU cores',
    }


def page(record: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown page with a table per task, in the order of `TASKS` and `METHODS`."""
    runs = [line for line in record if line['method'] != NO_PRETRAINING]
    among = {name: _all(line[name] for line in runs) for name in ('steps', 'machine', 'base_bits_per_byte')}
    lines = [
        '# Results',
        '',
        f'`python -m tools.results --base=runs/tiny --steps={among["steps"]}`, {among["machine"]}. The base reaches '
        f'{among["base_bits_per_byte"]} bits per byte on its own held-out text (of the tiny recipe: the source of the '
        'Python library).',
        f'Every run is {among["steps"]} steps of 32 examples. Score: mean ± standard deviation over the seeds named. '
        'Seconds of a whole run, start and report included, are medians on a shared machine; memory is the '
        "process's peak. The learning rates were not tuned; others may change the ranking. "
        'Every run is a line of RESULTS.jsonl.',
    ]
    for task in TASKS:
        if not (of_task := [line for line in record if line['task'] == task]):
            continue
        header = ('trained', 'parameters of it', 'learning rate', TASKS[task].replace('_', ' '), 'seeds', 's', 'GiB')
        lines += ['', f'## {task}', '', f'| {" | ".join(header)} |', f'|{"---|" * len(header)}']
        by_method = [[line for line in of_task if line['method'] == method] for method in METHODS]
        lines += [_row(runs) for runs in by_method if runs]
        (other,) = (line for line in of_task if line['method'] == NO_PRETRAINING)
        lines.append(
            f'| *for comparison, no pretraining:* {other["name"]} | | | {_shown(other["score"], task)} | | | |'
        )
    return '\n'.join(lines) + '\n'


def _row(runs: Sequence[dict[str, Any]]) -> str:
    scores, first, task = [line['score'] for line in runs], runs[0], runs[0]['task']
    spread = f' ± {_shown(statistics.stdev(scores), task)}' if len(scores) > 1 else ''
    return (
        f'| {first["method"]} | {first["trained"]:,} ({first["trained"] / first["parameters"]:.2%}) '
        f'| {_all(format(line["learning_rate"], "g") for line in runs)} '
        f'| {_shown(statistics.mean(scores), task)}{spread} | {", ".join(str(line["seed"]) for line in runs)} '
        f'| {statistics.median(line["seconds"] for line in runs):.0f} | {max(line["gib"] for line in runs):.2f} |'
    )


def _all(values: Iterable[Any]) -> str:
    return ' or '.join(sorted({str(value) for value in values}))


def _shown(score: float, task: str) -> str:
    return f'{score:.1f}' if TASKS[task] == 'bleu' else f'{score:.3f}'  # of 100, of 1


# Baselines without pretraining.


def baseline(directory: Path, task: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the record line of a baseline, evaluated on the validation examples of the run in `directory`."""
    flags = [('INITIAL_CHECKPOINT_PATH', str(options.base))]
    files = ['gin/finetune_lora.gin', f'gin/tasks/{task}.gin']
    data = load('loop.train', files, flags).build('loop.train')['data']
    held_out = [json.loads(line) for line in RunDirectory(directory).predictions.read_bytes().splitlines()]
    name, score = BASELINES[task](data, held_out)
    return {'task': task, 'method': NO_PRETRAINING, 'name': name, 'score': round(score, 4), 'seed': None, 'steps': None}


def classify(data: Any, held_out: Sequence[dict]) -> tuple[str, float]:
    """Classify by logistic regression on TF-IDF of words and bigrams; return the name and the accuracy."""
    train = data.table.examples('train')
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = LogisticRegression(C=10, max_iter=2000)
    model.fit(vectors.fit_transform([e.text for e in train]), [e.label for e in train])
    predicted = model.predict(vectors.transform([row['text'] for row in held_out]))
    right = [p == row['label'] for p, row in zip(predicted, held_out, strict=True)]
    return 'TF-IDF with logistic regression', float(np.mean(right))


def tag(data: Any, held_out: Sequence[dict]) -> tuple[str, float]:
    """Tag by logistic regression on a word, its shape, prefix, suffix and neighbors; return the name and entity F1."""

    def shape(word: str) -> str:
        return ''.join('X' if c.isupper() else 'x' if c.islower() else '0' if c.isdigit() else c for c in word)

    def features(words: Sequence[str]) -> list[dict[str, str]]:
        padded = ['', *words, '']
        return [
            {f'word {at}': padded[i + at].lower() for at in (-1, 0, 1)}
            | {'shape': shape(word), 'begin': word[:3], 'end': word[-3:]}
            for i, word in enumerate(words, 1)
        ]

    train = data.table.examples('train')
    vectors, model = DictVectorizer(), LogisticRegression(C=10, max_iter=1000)
    rows = vectors.fit_transform([row for s in train for row in features(s.words)])
    model.fit(rows, [tag for s in train for tag in s.tags])
    counts = np.zeros(3)
    for row in held_out:
        tags = model.predict(vectors.transform(features(row['words'])))
        counts += entity_counts(entities.decode(row['tags']), entities.decode(list(tags)))
    return 'logistic regression on words in context', precision_recall_f1(*counts)[2]


def retrieve(data: Any, held_out: Sequence[dict]) -> tuple[str, float]:
    """Answer with the target of the nearest training input by TF-IDF; return the name and BLEU."""
    train = data.source.examples('train')
    vectors = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r'[^,\s]+')
    known = vectors.fit_transform([c.turns[0].text for c in train])
    near = (vectors.transform([row['text'] for row in held_out]) @ known.T).argmax(axis=1)
    texts = [train[int(i)].turns[1].text for i in np.asarray(near).ravel()]
    of_rows: Callable = text_metrics.bleu(texts, [row['label'] for row in held_out])['bleu']
    return 'the answer to the nearest training input by TF-IDF', float(of_rows(np.arange(len(texts))))


BASELINES = {'banking77': classify, 'wnut17': tag, 'e2e_nlg': retrieve}


def _end(path: Path) -> str:
    return '\n'.join(path.read_text().splitlines()[-5:])


if __name__ == '__main__':
    command_line.run(main)
