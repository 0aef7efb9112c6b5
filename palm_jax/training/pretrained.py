"""Architecture, vocabulary and labels of a model, taken from its checkpoint; gin binds these functions."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from palm_jax.bounds import AtLeast, Rate
from palm_jax.checkpoint_metadata import read_metadata
from palm_jax.errors import UserError
from palm_jax.models.architecture import Architecture
from palm_jax.run_directory import RunDirectory, find_checkpoint, whole_file


def architecture(
    path: str | None,
    dropout_rate: Rate = 0.0,
    dtype: Literal['float32', 'bfloat16', 'float16'] = 'float32',
    remat: Literal['none', 'minimal', 'full'] = 'none',
    unroll_layers: Annotated[int, AtLeast(0)] | Literal['auto'] = 'auto',
    attention: Literal['auto', 'xla', 'cudnn', 'blocks', 'splash', 'intervals'] = 'auto',
) -> Architecture:
    """The architecture of a checkpoint's model, with other values for the fields that do not affect parameters.

    Args:
      path: a checkpoint or a MODEL_DIR, see `find_checkpoint`.
      dropout_rate, dtype, remat, unroll_layers, attention: fields of `Architecture`.

    Raises:
      UserError: there is no checkpoint, or it does not record its architecture.
    """
    checkpoint = find_checkpoint(path)
    fields = read_metadata(checkpoint).architecture
    if fields is None:
        raise UserError(f'{checkpoint} does not record its architecture; give one with --gin_file=gin/models/...')
    return dataclasses.replace(
        Architecture(**fields),
        dropout_rate=dropout_rate,
        dtype=dtype,
        remat=remat,
        unroll_layers=unroll_layers,
        attention=attention,
        fuse_projections='auto',  # the fastest of this run's platform, not of the checkpoint's
    )


def vocabulary(path: str | None) -> str:
    """The vocabulary a checkpoint was trained with: `bytes`, or the path of its file in the run's MODEL_DIR.

    Args:
      path: a checkpoint or a MODEL_DIR, see `find_checkpoint`.

    Raises:
      UserError: there is no checkpoint, or the vocabulary's file is missing.
    """
    checkpoint = find_checkpoint(path)
    name = read_metadata(checkpoint).vocabulary
    if name == 'bytes':
        return name
    run = RunDirectory.of_checkpoint(checkpoint)
    is_tokenizer = name is not None and name.startswith('tokenizers')
    file = run.tokenizers_vocabulary if is_tokenizer else run.sentencepiece_vocabulary
    found = whole_file(file, checkpoint)
    if not found.is_file():
        raise UserError(
            f'{checkpoint} was trained with the vocabulary {name}, but {file} is missing. '
            'Bind a copy of it: --gin.VOCABULARY=...'
        )
    return str(found)


def labels(path: str | None) -> tuple[str, ...] | None:
    """The labels of a checkpoint's head in the order of its outputs; None if it has no such head.

    Args:
      path: a checkpoint or a MODEL_DIR, see `find_checkpoint`.
    """
    return read_metadata(find_checkpoint(path)).labels
