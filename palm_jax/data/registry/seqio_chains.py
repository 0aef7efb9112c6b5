"""Building blocks of seqio tasks: vocabularies, preprocessors and data sources.

Like `tasks`, `public_tasks` and `evaluator`, it imports seqio and TensorFlow, which take seconds to load; these
modules are imported only when tokens have to be made, not to read them from the cache.
"""

from __future__ import annotations

import functools
import itertools
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from palm_jax.data.vocabulary.vocabularies import Bytes, Vocabulary
from palm_jax.errors import UserError
from palm_jax.special_ids import EOS_ID, UNK_ID

tf.config.set_visible_devices([], 'GPU')  # TensorFlow only reads data; JAX uses the accelerator


class SeqioVocabulary(seqio.Vocabulary):
    """A vocabulary of this package with the interface of seqio."""

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


def language_model_preprocessors(text_key: str = 'text', before: Sequence[Callable] = ()) -> list:
    """Return preprocessors that, after `before`, tokenize a text to `targets` with EOS ([eod] in the paper)."""
    return [
        *before,
        functools.partial(seqio.preprocessors.rekey, key_map={'targets': text_key}),
        seqio.preprocessors.tokenize,
        seqio.preprocessors.append_eos,
    ]


def add_language_model_task(
    name: str, source: seqio.DataSource, text_key: str = 'text', before: Sequence[Callable] = ()
) -> None:
    """Register a language modeling task on the texts of `source`."""
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=language_model_preprocessors(text_key, before),
        output_features={'targets': seqio.Feature(SeqioVocabulary(Bytes()), add_eos=True, dtype=tf.int32)},
    )


_CHUNK = 32  # examples per transfer from Python to TensorFlow, which is most of the cost
_failures: list[UserError] = []  # raised in generators; TensorFlow would wrap them in its own errors


def generator_source(
    generate: Callable[[Any], Iterable[Mapping[str, str]]], splits: Sequence[str], features: Sequence[str] = ('text',)
) -> seqio.FunctionDataSource:
    """Return a data source with text `features` from a Python generator of the examples of a split."""

    def dataset_fn(split: str, shuffle_files: bool = False, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # the order is fixed; batches are shuffled from the token cache

        def chunks():
            examples = iter(generate(split))
            try:
                while chunk := list(itertools.islice(examples, _CHUNK)):
                    yield {name: [example[name] for example in chunk] for name in features}
            except UserError as error:
                _failures.append(error)
                raise

        signature = {name: tf.TensorSpec([None], tf.string) for name in features}
        return tf.data.Dataset.from_generator(chunks, output_signature=signature).unbatch()

    # `tasks.cache_key` reads the source of the generator.
    dataset_fn.generate = generate  # type: ignore[attr-defined]  # functions take any attribute
    return seqio.FunctionDataSource(dataset_fn, splits=splits)


def examples_of(dataset: tf.data.Dataset) -> Iterator[dict[str, Any]]:
    """Yield the examples of a dataset; a UserError of its generator is raised unchanged."""
    _failures.clear()
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError:
        if not _failures:
            raise
        raise _failures.pop() from None


def add_text_to_text_task(
    name: str,
    source: seqio.DataSource,
    preprocessors: Iterable[Callable],
    metrics: Iterable[Callable] = (),
    postprocess: Callable | None = None,
) -> None:
    """Register a task whose preprocessors turn the examples of a source into the texts `inputs` and `targets`."""
    vocabulary = SeqioVocabulary(Bytes())
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[*preprocessors, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={
            'inputs': seqio.Feature(vocabulary, add_eos=False, required=False, dtype=tf.int32),
            'targets': seqio.Feature(vocabulary, add_eos=True, dtype=tf.int32),
        },
        metric_fns=list(metrics),
        postprocess_fn=postprocess,
    )


def split_at_tokenization(task: seqio.Task) -> tuple[list[Callable], list[Callable]] | None:
    """Return the preprocessors before seqio's `tokenize`, and from it on; None if the task does not use it."""
    functions = [getattr(fn, 'func', fn) for fn in task.preprocessors]
    if seqio.preprocessors.tokenize not in functions:
        return None
    index = functions.index(seqio.preprocessors.tokenize)
    return list(task.preprocessors[:index]), list(task.preprocessors[index:])


def fill_templates(**templates: str) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Return a preprocessor that adds features from templates of others: `question: {question}`."""

    def add_features(example: dict[str, Any]) -> dict[str, Any]:
        def fill(template: str) -> tf.Tensor:
            parts = [(text, field) for text, field, _, _ in string.Formatter().parse(template)]
            return tf.strings.join([p for text, field in parts for p in (text, example[field] if field else '')])

        return example | {name: fill(template) for name, template in templates.items()}

    return seqio.map_over_dataset(add_features)


def few_shot(name: str, shots: int, separator: str = '\n\n', targets_prefix: str = '\n') -> str:
    """Register `<name>_<shots>_shot`, a task whose inputs begin with solved training examples.

    The examples, drawn for every question from a fixed seed, are separated by a blank line (PaLM, section 6).

    Args:
      name: registered task with `inputs` and `targets`.
      shots: number of examples; 0 leaves only the question, with `targets_prefix` after it.
      separator: text between examples.
      targets_prefix: text between an input and its target.

    Returns:
      Name of the new task.

    Raises:
      UserError: if the task has no training split, too few examples in it, or no inputs.
    """
    task, new = seqio.TaskRegistry.get(name), f'{name}_{shots}_shot'
    if new in seqio.TaskRegistry.names():
        return new
    parts = split_at_tokenization(task)
    if 'train' not in task.splits or 'inputs' not in task.output_features or parts is None:
        raise UserError(f'Task {name!r} has no split `train` with text `inputs` and `targets` to take examples from.')
    available = sum(1 for _ in task.source.get_dataset('train', shuffle=False).take(shots))
    if available < shots:
        raise UserError(
            f'Task {name!r} has {available} training examples; {shots} examples before a question would repeat some.'
        )
    before, after = parts
    source = seqio.experimental.FewshotDataSource(
        task.source, num_shots=shots, train_preprocessors=before, eval_preprocessors=before
    )
    prepend = functools.partial(
        seqio.experimental.fewshot_preprocessor, example_separator=separator, targets_prefix=targets_prefix
    )
    seqio.TaskRegistry.add_provider(new, task.replace(name=new, source=source, preprocessors=[prepend, *after]))
    return new
