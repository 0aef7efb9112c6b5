"""The seqio registry: what is registered here, and how a task becomes tokens or rows of text."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import seqio
import tensorflow as tf

from palm_jax.data.readers.text_files import TextFiles
from palm_jax.data.registry import offline_tasks, public_tasks
from palm_jax.data.registry.seqio_chains import (
    SeqioVocabulary,
    add_language_model_task,
    at_tokenization,
    examples_of,
    generator_source,
)
from palm_jax.data.vocabulary.vocabularies import EOS_ID, Vocabulary
from palm_jax.errors import UserError, closest

_END_MARKS = {seqio.preprocessors.append_eos, seqio.preprocessors.append_eos_after_trim}
_OURS = ('palm_jax.', 'seqio.', 't5.', 'functools', 'tensorflow')

offline_tasks.add()
public_tasks.add()


def add_text_files(name: str, files: TextFiles) -> None:
    """Registers a user's own text files under `name`, once."""
    if name not in seqio.TaskRegistry.names():
        add_language_model_task(name, generator_source(files.examples, ('train', 'validation')))


def parts(name: str) -> dict[str, float]:
    """The tasks of a task or mixture with their shares, or an error that names what exists."""
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
        'A module of your own that registers tasks is loaded by a line `import my_tasks` in the gin file.'
        + ('' if has_t5 else f'\n{public_tasks.NEEDS_T5}')
    )


def task_of(name: str, split: str) -> seqio.Task:
    """A registered task that has a split, or an error that names what exists."""
    parts(name)
    task = seqio.TaskRegistry.get(name)
    _download(task.source)
    if split not in task.splits:
        raise UserError(f'Task {name!r} has no split {split!r}; it has: {", ".join(map(str, task.splits))}.')
    return task


def cache_key(name: str) -> str:
    """Changes when the code that makes a user's own task does; empty for tasks that are registered here."""
    own = []
    for part in parts(name):
        task = seqio.TaskRegistry.get(part)
        for fn in (*task.preprocessors, getattr(task.source, '_dataset_fn', None)):
            function = _undecorated(fn)
            if not (getattr(function, '__module__', None) or 'seqio.').startswith(_OURS):
                own.append(_code(function))
    return hashlib.sha256('\n'.join(own).encode()).hexdigest()[:12] if own else ''


def _undecorated(fn: Callable) -> Callable:
    """What somebody wrote, inside partials, decorators and `generator_source`."""
    around = ('func', '__wrapped__', 'generate')
    while inner := next((getattr(fn, name) for name in around if hasattr(fn, name)), None):
        fn = inner
    return fn


def _code(function: Callable) -> str:
    """The source of a function's module, or of a notebook's function its own."""
    for thing in (inspect.getmodule(function), function):
        with contextlib.suppress(OSError, TypeError):
            return inspect.getsource(thing)
    return repr(function)


def with_vocabulary(task: seqio.Task, vocabulary: Vocabulary) -> seqio.Task:
    """The same task in the ids of a vocabulary of ours."""
    features = {
        name: seqio.Feature(SeqioVocabulary(vocabulary), feature.add_eos, feature.required, feature.dtype, feature.rank)
        for name, feature in task.output_features.items()
    }
    return task.replace(name=f'{task.name}_with_{vocabulary.fingerprint}', output_features=features)


def token_examples(
    task_name: str, split: str, vocabulary: Vocabulary, first: int = 0
) -> Iterator[tuple[np.ndarray, int]]:
    """(token ids, bytes of text) of a task's split, in a fixed order, from example number `first` on.

    Where nothing but the end mark comes behind tokenization, as in all tasks here, the vocabulary reads whole
    batches of texts instead of one after another through TensorFlow: the same ids, several times as fast.
    """
    task = task_of(task_name, split)
    found = at_tokenization(task)
    if found is not None and {getattr(fn, 'func', fn) for fn in found[1][1:]} <= _END_MARKS:
        features = tuple(name for name in ('inputs', 'targets') if name in task.output_features)
        for batch in _batches(itertools.islice(rows(task_name, split, features), first, None)):
            if any(row.get('inputs') for row in batch):
                raise _has_inputs(task_name)
            for ids, row in zip(vocabulary.encode_all([r['targets'] for r in batch]), batch, strict=True):
                yield np.array([*ids, EOS_ID], np.int32), len(row['targets'].encode())
        return
    for example in itertools.islice(_examples(with_vocabulary(task, vocabulary), split), first, None):
        if len(example.get('inputs', ())):
            raise _has_inputs(task_name)
        ids, text = np.asarray(example['targets']), example.get('targets_pretokenized')
        yield ids, len(vocabulary.decode(ids).encode() if text is None else text)


def texts(task_name: str, split: str = 'train') -> Iterator[str]:
    """The raw text of every example of a task's split, as its preprocessors leave it before tokenization."""
    for row in rows(task_name, split, ('targets',)):
        yield row['targets']


def rows(task_name: str, split: str, features: tuple[str, ...] = ('inputs', 'targets')) -> Iterator[dict[str, str]]:
    """The text of every example's features, as the task's preprocessors leave it before tokenization.

    Raises:
      UserError: no such task or split, or it has not all of the features.
    """
    task = task_of(task_name, split)
    lacking = [name for name in features if name not in task.output_features]
    if lacking:
        raise UserError(
            f'Task {task_name!r} has no {lacking[0]}; it has {", ".join(task.output_features)}. '
            'What has text alone is pretrained on: --gin_file=gin/pretrain_tiny.gin'
        )
    found = at_tokenization(task)
    if found is None:  # it makes ids in a way of its own
        for example in _examples(task, split):
            yield {name: task.output_features[name].vocabulary.decode(example[name].tolist()) for name in features}
        return
    text = seqio.Feature(seqio.PassThroughVocabulary(0), add_eos=False, required=False, dtype=tf.string, rank=0)
    as_text = dict.fromkeys(task.output_features, text)
    text_task = task.replace(name=f'{task_name}_as_text', preprocessors=found[0], output_features=as_text)
    for example in _examples(text_task, split):
        yield {name: example[name].decode('utf-8') for name in features}


def _examples(task: seqio.Task, split: str) -> Iterator[dict[str, np.ndarray]]:
    return examples_of(task.get_dataset(sequence_length=None, split=split, shuffle=False))


def _batches(examples: Iterator[dict[str, str]], characters: int = 1 << 20) -> Iterator[list[dict[str, str]]]:
    """Lists of examples with about so many characters."""
    batch, size = [], 0
    for example in examples:
        batch.append(example)
        size += len(example['targets'])
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _has_inputs(task_name: str) -> UserError:
    return UserError(
        f'Task {task_name!r} has inputs to answer; text alone is trained on here. Fine-tune on it: '
        '--gin_file=gin/finetune_lora.gin --gin_file=gin/tasks/registered_text_to_text.gin'
    )


def _download(source: seqio.DataSource) -> None:
    """What TFDS does not have yet, it downloads and prepares, with its own progress bars."""
    if not isinstance(source, seqio.TfdsDataSource) or source.tfds_dataset.builder.info.splits:
        return
    builder = source.tfds_dataset.builder
    print(f'TFDS prepares {source.tfds_dataset.name} ({builder.info.download_size}) in {builder.data_dir}', flush=True)
    try:
        builder.download_and_prepare()
    except Exception as error:  # of the network, of the site, of Beam
        raise UserError(
            f'TFDS could not prepare {source.tfds_dataset.name}: {type(error).__name__}: {str(error)[:500]}\n'
            f'Prepare it where it can be: tfds build {source.tfds_dataset.name.partition(":")[0]}, and name its folder '
            'with TFDS_DATA_DIR.'
        ) from None
