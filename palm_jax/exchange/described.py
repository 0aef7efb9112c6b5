"""The files beside a compiled model: model.json about its arrays, the vocabulary, and for a head the program run.py."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import Bytes, HuggingFace
from palm_jax.errors import UserError
from palm_jax.exchange import hf_tokenizer
from palm_jax.exchange.directories import apply_umask
from palm_jax.run_directory import RunDirectory
from palm_jax.special_ids import EOS_ID

_DESCRIPTION = 'model.json'
_PROGRAM = 'run.py'
_TEXTS = ('a text', 'Two words, and 7 more.', 'naïve ▁ 中文 😀')  # where there are no held-out examples
_BATCHES, _BATCH_SIZE = 4, 4
_CHECKED = 16  # held-out texts on which run.py is compared with `predict`


def labels(model: Any) -> bool:
    """Return whether a `TrainedModel` labels texts or words with a head."""
    return model.predictor.kind in ('classify', 'tag')


def example_batches(model: Any) -> list[dict[str, np.ndarray]]:
    """Return held-out batches of a model's data, or random tokens where the data is not there any more."""
    try:
        return list(itertools.islice(model.data.validation(_BATCH_SIZE), _BATCHES))
    except (UserError, OSError):
        rng, length = np.random.default_rng(0), model.data.length
        tokens = rng.integers(EOS_ID + 1, model.model.arch.vocab_size, (_BATCHES * _BATCH_SIZE, length)).astype(
            np.int32
        )
        inside = (np.arange(length) < rng.integers(2, length + 1, (len(tokens), 1))).astype(np.int32)
        return [
            {
                'decoder_input_tokens': tokens * inside,
                'decoder_segment_ids': inside,
                'decoder_target_tokens': np.roll(tokens, -1, axis=1),
                'decoder_loss_weights': inside,
            }
        ]


def write(model: Any, vocabulary: ExtendedVocabulary, directory: Path) -> str:
    """Write model.json, the vocabulary and run.py beside a compiled model, and try run.py.

    Args:
      model: `TrainedModel`.
      vocabulary: its vocabulary.
      directory: directory of the compiled model.

    Returns:
      A line about the comparison of run.py with `predict`; empty for a model without a head.

    Raises:
      UserError: if run.py predicts something else than the model.
    """
    vocabulary.save(directory)
    content = describe(model, vocabulary)
    (directory / _DESCRIPTION).write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
    if labels(model):
        shutil.copyfile(Path(__file__).with_name('runner.py'), directory / _PROGRAM)
    apply_umask(directory)
    return _try_program(model, directory) if labels(model) else ''


def describe(model: Any, vocabulary: ExtendedVocabulary) -> dict[str, Any]:
    """Return the content of model.json: the arrays that the compiled model takes and gives, labels, vocabulary."""
    length, predictor, data = model.data.length, model.predictor, model.data
    about: dict[str, Any] = {
        'task': predictor.purpose.removeprefix('to '),
        'inputs': [{'name': name, 'dtype': 'int32', 'shape': [1, length]} for name in predictor.features],
        'length': length,
        'start_ids': list(vocabulary.start_ids),
        'eos_id': EOS_ID,
        'vocabulary': _describe_vocabulary(vocabulary),
    }
    tokens, *segments = about['inputs']
    if not labels(model):
        tokens['content'] = 'start_ids and the ids of the text, padded with 0 at the end'
        return about | {
            'output': {'dtype': 'float32', 'shape': [1, length, model.model.arch.vocab_size], 'content': 'logits'}
        }
    for array in segments:
        array['content'] = '1 for every token of the text, start_ids and eos_id included; 0 for padding'
    names, size = list(data.labels), model.model.head.num_outputs
    output = {'dtype': 'float32', 'shape': [1, size], 'content': 'a score per label'}
    about |= {'labels': names, 'output': output, 'reads_pairs': predictor.reads_pairs(model)}
    if predictor.kind == 'tag':
        tokens['content'] = 'start_ids, then the ids of every word after the first with the separator before it'
        output |= {'shape': [1, length, size], 'content': 'a score per tag; that of a word is at its last token'}
        return about | {'word_separator': data.separator, 'word_pattern': data.word_pattern}
    second = ', ids of the second text, eos_id' if about['reads_pairs'] else ''
    tokens['content'] = f'start_ids, ids of the text, eos_id{second}; of the longer text the end is cut off'
    if predictor.kind == 'classify':
        kind = predictor.label_kind
        about['activation'] = 'softmax' if kind.is_exclusive else 'sigmoid' if kind.has_classes else 'none'
    return about


def _describe_vocabulary(vocabulary: ExtendedVocabulary) -> dict[str, Any]:
    text = vocabulary.text
    if isinstance(text, Bytes):
        return {'kind': 'bytes', 'first_byte': text.encode('\0')[0]}
    if isinstance(text, HuggingFace):
        there = hf_tokenizer.original_ids(vocabulary)
        renumbered = {int(there[here]): int(here) for here in np.flatnonzero(there != np.arange(len(there)))}
        return {'kind': 'tokenizers', 'file': RunDirectory(Path()).tokenizers_vocabulary.name, 'renumbered': renumbered}
    return {'kind': 'sentencepiece', 'file': RunDirectory(Path()).sentencepiece_vocabulary.name}


def inputs_of(model: Any) -> Sequence[Any]:
    """Return inputs of `predict`: held-out texts, or a few of our own where the data is not there any more."""
    try:
        examples = model.data.validation_examples[:_CHECKED]
    except (UserError, OSError):
        return list(itertools.pairwise(_TEXTS)) if model.predictor.reads_pairs(model) else _TEXTS
    if model.predictor.kind == 'tag':
        return [model.data.separator.join(example.words) for example in examples]
    if model.predictor.reads_pairs(model):
        return [(example.text, example.second_text) for example in examples]
    return [example.text for example in examples]


def _try_program(model: Any, directory: Path) -> str:
    """Compare `predict` of run.py with the model's; half precision and int8 are compared elsewhere, by their scores."""
    spec = importlib.util.spec_from_file_location('exported_run', directory / _PROGRAM)
    assert spec is not None and spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    inputs = inputs_of(model)
    for given, ours, theirs in zip(inputs, model.predict(inputs), program.predict(inputs), strict=True):
        if not _is_near(ours, theirs, 1e-3 if model.model.arch.dtype == 'float32' else 0.1):
            raise UserError(
                f'{directory / _PROGRAM} predicts {theirs} for {given!r}, but the model {ours}; do not use it.'
            )
    return f'{_PROGRAM:20}predicts the same as the model for {len(inputs)} texts'


def _is_near(ours: Any, theirs: Any, tolerance: float) -> bool:
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(abs(ours[name] - theirs[name]) <= tolerance for name in ours)
    return bool(abs(ours - theirs) <= tolerance * max(1, abs(ours))) if isinstance(ours, float) else ours == theirs
