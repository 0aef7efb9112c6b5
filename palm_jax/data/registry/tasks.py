"""The seqio registry: registered tasks, and their examples as tokens or text."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from palm_jax.data.registry import offline_tasks, public_tasks
from palm_jax.data.registry.seqio_chains import (
    SeqioVocabulary,
    examples_of,
    split_at_tokenization,
)
from palm_jax.data.vocabulary.documents import encode_documents
from palm_jax.data.vocabulary.vocabularies import Vocabulary
from palm_jax.errors import UserError, closest

_LOGGER = logging.getLogger(__name__)
_APPEND_EOS = {seqio.preprocessors.append_eos, seqio.preprocessors.append_eos_after_trim}
_NOT_OF_USER = ('palm_jax.', 'seqio.', 't5.', 'functools', 'tensorflow')

offline_tasks.add()
public_tasks.add()


def parts(name: str) -> dict[str, float]:
    """Return the tasks of a task or mixture with their shares, which sum to 1.

    Raises:
      UserError: if there is no such task or mixture; the message lists those that exist.
    """
    is_known = any(name in registry.names() for registry in (seqio.TaskRegistry, seqio.MixtureRegistry))
    has_t5 = is_known or public_tasks.add_in_t5_format()
    if name in seqio.TaskRegistry.names():
        return {name: 1.0}
    if name in seqio.MixtureRegistry.names():
        mixture = seqio.MixtureRegistry.get(name)
        rates = {task.name: float(mixture.get_rate(task)) for task in mixture.tasks}
        total = sum(rates.values())
        if not total:
            raise UserError(f'The mixture {name!r} has no part with a rate above 0.')
        return {task: rate / total for task, rate in rates.items()}
    known = sorted((*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()))
    raise UserError(
        f'No task or mixture is called {name!r}.{closest(name, known)}\nRegistered: {", ".join(known)}.\n'
        'To register tasks of your own, import their module in the gin file: `import my_tasks`.'
        + ('' if has_t5 else f'\n{public_tasks.NEEDS_T5}')
    )


def task_of(name: str, split: str) -> seqio.Task:
    """Return a registered task, downloaded if necessary.

    Raises:
      UserError: if there is no such task or split; the message lists those that exist.
    """
    parts(name)
    task = seqio.TaskRegistry.get(name)
    _download(task.source)
    if split not in task.splits:
        raise UserError(f'Task {name!r} has no split {split!r}; it has: {", ".join(map(str, task.splits))}.')
    return task


def cache_key(name: str) -> str:
    """Return a key that changes with the code of a user's task; empty for tasks of this package."""
    sources = []
    for part in parts(name):
        task = seqio.TaskRegistry.get(part)
        for fn in (*task.preprocessors, getattr(task.source, '_dataset_fn', None)):
            function = _unwrap(fn)
            if not (getattr(function, '__module__', None) or 'seqio.').startswith(_NOT_OF_USER):
                sources.append(_code(function))
    return hashlib.sha256('\n'.join(sources).encode()).hexdigest()[:12] if sources else ''


def _unwrap(fn: Callable) -> Callable:
    """Return the innermost function of partials, decorators and `generator_source`."""
    wrapped = ('func', '__wrapped__', 'generate')
    while inner := next((getattr(fn, name) for name in wrapped if hasattr(fn, name)), None):
        fn = inner
    return fn


def _code(function: Callable) -> str:
    """Return the source of a function's module; of a function in a notebook, its own."""
    with contextlib.suppress(OSError, TypeError):
        return inspect.getsource(inspect.getmodule(function) or function)
    with contextlib.suppress(OSError, TypeError):
        return inspect.getsource(function)
    return repr(function)


def with_vocabulary(task: seqio.Task, vocabulary: Vocabulary) -> seqio.Task:
    """Return the task with the ids of a vocabulary of this package."""
    features = {
        name: seqio.Feature(SeqioVocabulary(vocabulary), feature.add_eos, feature.required, feature.dtype, feature.rank)
        for name, feature in task.output_features.items()
    }
    return task.replace(name=f'{task.name}_with_{vocabulary.fingerprint}', output_features=features)


def token_examples(
    task_name: str, split: str, vocabulary: Vocabulary, first: int = 0
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (token ids, number of bytes of text) of the examples of a split, in a fixed order, from number `first` on.

    Where the ids are those of `plain_texts`, the vocabulary encodes whole batches of them instead of single ones
    through TensorFlow: the same ids, several times as fast.
    """
    texts = plain_texts(task_name, split)
    if texts is not None:
        yield from encode_documents(vocabulary, itertools.islice(texts, first, None))
        return
    task = task_of(task_name, split)
    for example in itertools.islice(_examples(with_vocabulary(task, vocabulary), split), first, None):
        if len(example.get('inputs', ())):
            raise _has_inputs(task_name)
        tokens, text = np.asarray(example['targets']), example.get('targets_pretokenized')
        yield tokens, len(vocabulary.decode(tokens).encode() if text is None else text)


def plain_texts(task_name: str, split: str) -> Iterator[str] | None:
    """Return the texts of a split if its examples are their ids and EOS, as in all tasks of this package, else None."""
    task = task_of(task_name, split)
    found = split_at_tokenization(task)
    if found is None or not {getattr(fn, 'func', fn) for fn in found[1][1:]} <= _APPEND_EOS:
        return None
    return _targets(task, split)


def _targets(task: seqio.Task, split: str) -> Iterator[str]:
    """Yield the text of the targets of a task whose inputs, if it has any, are empty."""
    features = tuple(name for name in ('inputs', 'targets') if name in task.output_features)
    for row in rows(task.name, split, features):
        if row.get('inputs'):
            raise _has_inputs(task.name)
        yield row['targets']


def texts(task_name: str, split: str = 'train') -> Iterator[str]:
    """Yield the text of every example of a split after the preprocessors that precede tokenization."""
    for row in rows(task_name, split, ('targets',)):
        yield row['targets']


def rows(task_name: str, split: str, features: tuple[str, ...] = ('inputs', 'targets')) -> Iterator[dict[str, str]]:
    """Yield the text of the features of every example after the preprocessors that precede tokenization.

    Raises:
      UserError: if there is no such task or split, or it lacks one of the features.
    """
    task = task_of(task_name, split)
    missing = [name for name in features if name not in task.output_features]
    if missing:
        raise UserError(
            f'Task {task_name!r} has no {missing[0]}; it has {", ".join(task.output_features)}. '
            'Text without inputs is for pretraining: --gin_file=gin/pretrain_tiny.gin'
        )
    found = split_at_tokenization(task)
    if found is None:  # the task makes ids in its own way
        for example in _examples(task, split):
            yield {name: task.output_features[name].vocabulary.decode(example[name].tolist()) for name in features}
        return
    text = seqio.Feature(seqio.PassThroughVocabulary(0), add_eos=False, required=False, dtype=tf.string, rank=0)
    as_text = dict.fromkeys(task.output_features, text)
    text_task = task.replace(name=f'{task_name}_as_text', preprocessors=found[0], output_features=as_text)
    for example in _examples(text_task, split):
        yield {name: example[name].decode('utf-8') for name in features}


def _examples(task: seqio.Task, split: str) -> Iterator[dict[str, Any]]:
    return examples_of(task.get_dataset(sequence_length=None, split=split, shuffle=False))


def _has_inputs(task_name: str) -> UserError:
    return UserError(
        f'Task {task_name!r} has inputs, but this run trains on text without inputs. Fine-tune on the task instead: '
        '--gin_file=gin/finetune_lora.gin --gin_file=gin/tasks/registered_text_to_text.gin'
    )


def _download(source: seqio.DataSource) -> None:
    """Download and prepare a dataset that TFDS does not have yet, with its progress bars."""
    if not isinstance(source, seqio.TfdsDataSource) or source.tfds_dataset.builder.info.splits:
        return
    builder = source.tfds_dataset.builder
    _LOGGER.info('TFDS prepares %s (%s) in %s', source.tfds_dataset.name, builder.info.download_size, builder.data_dir)
    try:
        builder.download_and_prepare()
    except Exception as error:  # network, server or Beam
        raise UserError(
            f'TFDS could not prepare {source.tfds_dataset.name}: {type(error).__name__}: {str(error)[:500]}\n'
            f'Prepare it where that works: tfds build {source.tfds_dataset.name.partition(":")[0]}, and set '
            'TFDS_DATA_DIR to its folder.'
        ) from None
