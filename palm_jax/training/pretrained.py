"""What a checkpoint says of itself: its architecture and its vocabulary, read without touching an array."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from palm_jax.errors import UserError
from palm_jax.models.architecture import Architecture

STATE, ABOUT = 'state', 'about'
_MAKE_ONE = 'Make one with: python -m palm_jax.train --gin_file=gin/pretrain_tiny.gin'
VOCABULARY_FILES = ('vocabulary.model', 'vocabulary.json')  # in MODEL_DIR, one of them where it is not bytes
BEST = 'best'  # in MODEL_DIR, its best checkpoint


def architecture(
    path: str | None,
    dropout_rate: float = 0.0,
    dtype: Literal['float32', 'bfloat16', 'float16'] = 'float32',
    remat: Literal['none', 'minimal', 'full'] = 'none',
    unroll_layers: int | Literal['auto'] = 1,
) -> Architecture:
    """The architecture of a checkpoint's model; what does not touch its parameters is chosen anew.

    Args:
      path: a step's folder, or a MODEL_DIR, whose newest step is taken.
      dropout_rate, dtype, remat, unroll_layers: see `Architecture`.
    """
    changes = {'dropout_rate': dropout_rate, 'dtype': dtype, 'remat': remat, 'unroll_layers': unroll_layers}
    directory = step_directory(path)
    fields = read_about(directory).get('architecture')
    if fields is None:
        raise UserError(
            f'{directory} does not say which architecture it holds; give one with --gin_file=gin/models/...'
        )
    return dataclasses.replace(Architecture(**fields), **changes)


def vocabulary(path: str | None) -> str:
    """The vocabulary that a checkpoint was trained with: `bytes`, or the path of its file in the run's MODEL_DIR."""
    directory = step_directory(path)
    name = read_about(directory).get('vocabulary')
    if name == 'bytes':
        return name
    files = [directory.parents[1] / file for file in VOCABULARY_FILES]
    found = next((str(file) for file in files if file.is_file()), None)
    if found is None:
        raise UserError(
            f'{directory} was trained with the vocabulary {name}, but {files[0]} is missing. '
            'Bind its file: --gin.VOCABULARY=...'
        )
    return found


def read_about(directory: Path) -> dict[str, Any]:
    """The JSON that a step's folder keeps beside its arrays."""
    file = directory / ABOUT / 'metadata'
    if not file.is_file():
        raise UserError(f'{directory} lacks its `{ABOUT}` folder: this is no whole checkpoint.')
    return json.loads(file.read_text())


def check_vocabulary(theirs: dict[str, Any], ours: dict[str, Any], path: Path) -> None:
    """Refuses a checkpoint made with another vocabulary, naming both."""
    if theirs.get('vocabulary') != ours.get('vocabulary'):
        raise UserError(
            f'{path} was trained with the vocabulary {theirs.get("vocabulary")}, this run has '
            f'{ours.get("vocabulary")}. Its ids mean other text. With --gin_file=gin/models/pretrained.gin '
            'a run takes size and vocabulary from its INITIAL_CHECKPOINT_PATH; or bind VOCABULARY to its file.'
        )


def step_directory(path: str | None, binding: str = 'INITIAL_CHECKPOINT_PATH') -> Path:
    """A step's folder, from itself or from a MODEL_DIR: its best step where the run kept one, else its newest.

    Args:
      path: of either.
      binding: names it in messages.
    """
    if path is None:
        raise UserError(f'Name the model to start from: --gin.INITIAL_CHECKPOINT_PATH=runs/tiny. {_MAKE_ONE}')
    given = Path(path).expanduser()
    if (given / STATE).is_dir() and given.name.isdigit():
        return given
    for root in (given, given / BEST, given / 'checkpoints'):
        steps = [int(p.name) for p in root.glob('*') if p.name.isdigit() and (p / STATE).is_dir()]
        if steps:
            return root / str(max(steps))
    beside = sorted(int(p.name) for p in given.parent.glob('*') if p.name.isdigit() and (p / STATE).is_dir())
    advice = f'Beside it there are the steps {", ".join(map(str, beside))}.' if beside else _MAKE_ONE
    raise UserError(f'{binding} = {path!r} is no checkpoint, nor a MODEL_DIR that holds one. {advice}')
