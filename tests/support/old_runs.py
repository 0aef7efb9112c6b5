"""What the runs of earlier code below tests/goldens/runs answer.

`tests/goldens/runs/expected.json` holds the answers that the code gave that made them. It is never regenerated with
later code: the runs and these answers are the evidence that what users have trained still opens.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palm_jax.api import loading

RUNS = Path(__file__).parents[1] / 'goldens' / 'runs'
TEXTS = ['number 7 is odd', 'number 500 is even', 'number 31 is']
PROMPTS = ['the square of 12 ', 'the squ', 'the square of 300 is 9']
# The command that wrote the run that was interrupted; given again, it continues it.
INTERRUPTED = (
    '--gin_file=gin/pretrain_tiny.gin', '--gin.NUM_LAYERS=2', '--gin.D_MODEL=16', '--gin.NUM_HEADS=2',
    '--gin.HEAD_DIM=8', '--gin.VOCABULARY=bytes', '--gin.VOCABULARY_SIZE=259', '--gin.TRAIN_FILES=text.txt',
    "--gin.TASK_FEATURE_LENGTHS={'targets': 64}", '--gin.MAX_NEW_TOKENS=8', '--gin.KEEP_CHECKPOINTS=1',
    '--gin.TRAIN_STEPS=40', '--gin.LOG_PERIOD=4', '--gin.DROPOUT_RATE=0.1', '--gin.EVAL_PERIOD=20',
    '--gin.CHECKPOINT_PERIOD=100', '--gin.MODEL_DIR=interrupted',
)  # fmt: skip


def language_model(name: str) -> dict[str, Any]:
    """Greedy continuations, and the log-probability of every byte of other texts."""
    model = loading.load(name, TEMPERATURE=0.0, MAX_NEW_TOKENS=24)
    scores = model.score([(prompt, 'is 144.') for prompt in PROMPTS])
    return {'texts': model.generate(PROMPTS), 'log-probabilities': [list(score.logprobs) for score in scores]}


def labels(name: str) -> dict[str, Any]:
    """Probabilities by label, in alphabetical order of the labels, or numbers."""
    said = loading.load(name).predict(TEXTS)
    return {'predictions': [dict(sorted(row.items())) if isinstance(row, dict) else row for row in said]}


def entities(name: str) -> dict[str, Any]:
    """What a tagger finds: type, text, first and last character."""
    found = loading.load(name).extract_entities(['Ann1 is 1', 'is Bnn44', '20 Ann20'])
    return {'entities': [[list(entity.values()) for entity in row] for row in found]}


def written(name: str) -> dict[str, Any]:
    """Greedy answers, and the log-probability of every token of a given one."""
    model = loading.load(name)
    scores = model.score([(text, 'yes') for text in TEXTS])
    return {'texts': model.generate(TEXTS), 'log-probabilities': [list(score.logprobs) for score in scores]}


ANSWERS: dict[str, Callable[[str], dict[str, Any]]] = {
    'base': language_model,
    'classifier': labels,
    'saved': labels,
    'multilabel': labels,
    'regressor': labels,
    'tagger': entities,
    'writer': written,
}
CONTINUED = ('classifier', 'tagger', 'writer', 'regressor')


def command(name: str, *arguments: object) -> None:
    """Runs the program `palm-jax NAME` in this process."""
    code = importlib.import_module(f'palm_jax.cli.{name}').main([str(argument) for argument in arguments])
    assert code == 0, (name, *arguments)


def continued(name: str, steps: int = 4) -> dict[int, float]:
    """The training losses of the steps after the end of a run, which its own config.gin continues."""
    first = max(losses(name))
    command(
        'train',
        f'--gin_file={name}/config.gin',
        f'--gin.TRAIN_STEPS={first + steps}',
        '--gin.LOG_PERIOD=1',
        '--gin.EVAL_PERIOD=1000',
    )
    return {step: loss for step, loss in losses(name).items() if step > first}


def losses(model_dir: str) -> dict[int, float]:
    """Training losses by step, of metrics.jsonl."""
    records = map(json.loads, Path(model_dir, 'metrics.jsonl').read_text().splitlines())
    return {record['step']: record['train/loss'] for record in records if 'train/loss' in record}


def main() -> None:
    """Prints the answers of the runs in the working directory; those it continues are changed."""
    expected = {name: answers(name) for name, answers in ANSWERS.items()}
    expected |= {f'{name}, continued': continued(name) for name in CONTINUED}
    expected['interrupted, continued'] = json.loads(Path('following_losses.json').read_text())
    os.remove('following_losses.json')
    Path('expected.json').write_text(json.dumps(expected, indent=1) + '\n')


def assert_near(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Equal in everything but numbers, which may be `tolerance` apart, or that share of the larger above 1."""
    if isinstance(expected, dict):
        assert list(map(str, found)) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_near(one, other, tolerance)
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance), (found, expected)
    else:
        assert found == expected


if __name__ == '__main__':
    main()
