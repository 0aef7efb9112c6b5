"""The seqio registry: what the project registers, and how a task becomes token ids.

This module and `evaluator` are the only ones that import seqio, and with it TensorFlow (seconds to
load): they are imported when tokens have to be made, not when they are read from the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import seqio
import tensorflow as tf

from palm_jax.data import stdlib
from palm_jax.data.marks import Marked
from palm_jax.data.objectives import Objective
from palm_jax.data.text_files import TextFiles
from palm_jax.data.vocabularies import EOS_ID, UNK_ID, Bytes, Vocabulary
from palm_jax.errors import UserError, closest

tf.config.set_visible_devices([], 'GPU')  # TensorFlow only reads data; the accelerator is JAX's


class SeqioVocabulary(seqio.Vocabulary):
    """One of our vocabularies as seqio's `tokenize` and evaluators expect it."""

    def __init__(self, vocabulary: Vocabulary):
        super().__init__(extra_ids=0)
        self.vocabulary = vocabulary

    @property
    def eos_id(self) -> int:
        return EOS_ID

    @property
    def unk_id(self) -> int:
        return UNK_ID

    @property
    def _base_vocab_size(self) -> int:
        return self.vocabulary.size

    def _encode(self, s: str) -> list[int]:
        return self.vocabulary.encode(s)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.vocabulary.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        ids = tf.numpy_function(lambda text: np.array(self._encode(text.decode()), np.int32), [s], tf.int32)
        return tf.ensure_shape(ids, [None])

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        text = tf.numpy_function(lambda i: self._decode(i).encode(), [ids], tf.string)
        return tf.ensure_shape(text, [])


def language_model_preprocessors(text_key: str = 'text') -> list:
    """A document's text becomes `targets`: tokens and an end mark ([eod] in the paper)."""
    return [
        functools.partial(seqio.preprocessors.rekey, key_map={'targets': text_key}),
        seqio.preprocessors.tokenize,
        seqio.preprocessors.append_eos,
    ]


def add_language_model_task(name: str, source: seqio.DataSource) -> None:
    """Registers `source`, whose examples hold a `text`, for language modelling."""
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=language_model_preprocessors(),
        output_features={'targets': seqio.Feature(SeqioVocabulary(Bytes()), add_eos=True, dtype=tf.int32)},
    )


def generator_source(generate, splits: Sequence[str]) -> seqio.FunctionDataSource:
    """A source of {'text': ...} examples from a Python generator by split."""

    def dataset_fn(split: str, shuffle_files: bool = False, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # order is fixed; batches are shuffled from the token cache
        texts = lambda: ({'text': example['text']} for example in generate(split))  # noqa: E731
        return tf.data.Dataset.from_generator(texts, output_signature={'text': tf.TensorSpec([], tf.string)})

    return seqio.FunctionDataSource(dataset_fn, splits=splits)


add_language_model_task('python_stdlib', generator_source(stdlib.examples, ('train', 'validation')))


def add_text_files(name: str, files: TextFiles) -> None:
    """Registers a user's own text files under `name`, once."""
    if name not in seqio.TaskRegistry.names():
        add_language_model_task(name, generator_source(files.examples, ('train', 'validation')))


def parts(name: str) -> dict[str, float]:
    """The tasks of a task or mixture with their shares, or an error that names what exists."""
    if name in seqio.TaskRegistry.names():
        return {name: 1.0}
    if name in seqio.MixtureRegistry.names():
        mixture = seqio.MixtureRegistry.get(name)
        rates = {task.name: float(mixture.get_rate(task)) for task in mixture.tasks}
        total = sum(rates.values())
        return {task: rate / total for task, rate in rates.items()}
    known = sorted((*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()))
    raise UserError(
        f'No task or mixture is called {name!r}.{closest(name, known)}\nRegistered: {", ".join(known)}.\n'
        'A module of your own that registers tasks is loaded by a line `import my_tasks` in the gin file.'
    )


def with_vocabulary(task: seqio.Task, vocabulary: Vocabulary) -> seqio.Task:
    """The same task in the ids of a vocabulary of ours."""
    features = {
        name: seqio.Feature(SeqioVocabulary(vocabulary), feature.add_eos, feature.required, feature.dtype, feature.rank)
        for name, feature in task.output_features.items()
    }
    return task.replace(name=f'{task.name}_with_{vocabulary.fingerprint}', output_features=features)


def token_examples(task_name: str, split: str, vocabulary: Vocabulary) -> Iterator[tuple[np.ndarray, int]]:
    """(token ids, bytes of text) of every example of a task's split, in a fixed order."""
    task = seqio.TaskRegistry.get(task_name)
    if split not in task.splits:
        raise UserError(f'Task {task_name!r} has no split {split!r}; it has: {", ".join(map(str, task.splits))}.')
    dataset = with_vocabulary(task, vocabulary).get_dataset(sequence_length=None, split=split, shuffle=False)
    for example in dataset.as_numpy_iterator():
        yield np.asarray(example['targets']), len(example['targets_pretokenized'])


def texts(task_name: str, split: str = 'train') -> Iterator[str]:
    """The raw text of every example of a task's split, as its preprocessors leave it before tokenization."""
    task = seqio.TaskRegistry.get(task_name)
    dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False)
    for example in dataset.as_numpy_iterator():
        yield example['targets_pretokenized'].decode('utf-8')


def objective_preprocessors(objective: Objective, length: int, vocabulary: Marked, text_key: str = 'text') -> list:
    """An objective as a seqio chain, for a task of your own and pipelines elsewhere (T5X): text in, features out.

    Documents are tokenized, concatenated and split as in `LanguageModelData`; random choices come from
    seqio's seeds. The features are those of `palm_jax.data.objectives`, [length], ready for seqio's
    `PassThroughFeatureConverter`; the task's `targets`, which names the vocabulary, is not `required`.
    Training here does the same by number, from the token cache.
    """
    raw_length = objective.raw_length(length, vocabulary)
    some = np.full(raw_length, vocabulary.text.size - 1, np.int32)
    dummy = objective(some, length, vocabulary, np.random.default_rng(0), lambda: some)

    def features_of(tokens: np.ndarray, another: np.ndarray, seed: np.ndarray) -> list[np.ndarray]:
        rng = np.random.default_rng(seed.astype(np.uint32))
        features = objective(tokens, length, vocabulary, rng, lambda: another)
        return [features[name] for name in dummy]

    def concatenate_and_split(dataset: tf.data.Dataset) -> tf.data.Dataset:
        tokens = dataset.map(lambda example: example['targets']).unbatch().batch(raw_length, drop_remainder=True)
        return tf.data.Dataset.zip({'tokens': tokens, 'another': tokens.shuffle(1024, seed=0)})

    @seqio.map_over_dataset(num_seeds=1)
    def apply(example, seed):
        values = tf.numpy_function(features_of, [example['tokens'], example['another'], seed], [tf.int32] * len(dummy))
        return {name: tf.ensure_shape(value, dummy[name].shape) for name, value in zip(dummy, values, strict=True)}

    return [*language_model_preprocessors(text_key), concatenate_and_split, apply]
