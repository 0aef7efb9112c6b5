"""What seqio tasks are made of here: our vocabularies, chains of preprocessors, sources.

With `tasks`, `public_tasks` and `evaluator` the only modules that import seqio, and with it
TensorFlow (seconds to load): they are imported when tokens have to be made, not when they are
read from the cache.
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

from palm_jax.data.vocabulary.vocabularies import EOS_ID, UNK_ID, Bytes, Vocabulary
from palm_jax.errors import UserError

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


def language_model_preprocessors(text_key: str = 'text', before: Sequence[Callable] = ()) -> list:
    """A document's text, after what comes `before`, becomes `targets`: tokens and an end mark ([eod] in the paper)."""
    return [
        *before,
        functools.partial(seqio.preprocessors.rekey, key_map={'targets': text_key}),
        seqio.preprocessors.tokenize,
        seqio.preprocessors.append_eos,
    ]


def add_language_model_task(
    name: str, source: seqio.DataSource, text_key: str = 'text', before: Sequence[Callable] = ()
) -> None:
    """Registers `source`, whose examples hold a text, for language modelling."""
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=language_model_preprocessors(text_key, before),
        output_features={'targets': seqio.Feature(SeqioVocabulary(Bytes()), add_eos=True, dtype=tf.int32)},
    )


_CHUNK = 32  # examples that cross from Python to TensorFlow at once, which is most of what it costs
_failures: list[UserError] = []  # of generators, which TensorFlow would turn into its own


def generator_source(
    generate: Callable[[str], Iterable[Mapping[str, str]]], splits: Sequence[str], features: Sequence[str] = ('text',)
) -> seqio.FunctionDataSource:
    """A source of examples with text `features` from a Python generator by split."""

    def dataset_fn(split: str, shuffle_files: bool = False, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # order is fixed; batches are shuffled from the token cache

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

    dataset_fn.generate = generate  # whose code decides about the text
    return seqio.FunctionDataSource(dataset_fn, splits=splits)


def examples_of(dataset: tf.data.Dataset) -> Iterator[dict[str, np.ndarray]]:
    """The examples of a dataset; what a generator behind it says of the user's data is said as it was."""
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
    """Registers what `preprocessors` make `inputs` and `targets` of, both text."""
    bytes_ = SeqioVocabulary(Bytes())
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[*preprocessors, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={
            'inputs': seqio.Feature(bytes_, add_eos=False, required=False, dtype=tf.int32),
            'targets': seqio.Feature(bytes_, add_eos=True, dtype=tf.int32),
        },
        metric_fns=list(metrics),
        postprocess_fn=postprocess,
    )


def at_tokenization(task: seqio.Task) -> tuple[list[Callable], list[Callable]] | None:
    """A task's preprocessors before seqio's `tokenize`, and from it on; None where it is not among them."""
    functions = [getattr(fn, 'func', fn) for fn in task.preprocessors]
    if seqio.preprocessors.tokenize not in functions:
        return None
    place = functions.index(seqio.preprocessors.tokenize)
    return list(task.preprocessors[:place]), list(task.preprocessors[place:])


def filled(**templates: str) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """A preprocessor: features from templates of others, `question: {question}`; the other features stay."""

    def of_example(example: dict[str, Any]) -> dict[str, Any]:
        def fill(template: str) -> tf.Tensor:
            parts = [(text, field) for text, field, _, _ in string.Formatter().parse(template)]
            return tf.strings.join([p for text, field in parts for p in (text, example[field] if field else '')])

        return example | {name: fill(template) for name, template in templates.items()}

    return seqio.map_over_dataset(of_example)


def few_shot(name: str, shots: int, separator: str = '\n\n', targets_prefix: str = '\n') -> str:
    """Registers `<name>_<shots>_shot`: a task whose inputs begin with solved examples of its training part.

    The examples, drawn anew for every question from a fixed seed, are separated by a blank line (PaLM, section 6).

    Args:
      name: of a registered task with `inputs` and `targets`.
      shots: how many examples; 0 leaves the question alone, with `targets_prefix` behind it.
      separator: between examples.
      targets_prefix: between an input and its target.

    Returns:
      The new task's name.

    Raises:
      UserError: the task has no training part, fewer examples in it than asked for, or no inputs.
    """
    task, new = seqio.TaskRegistry.get(name), f'{name}_{shots}_shot'
    if new in seqio.TaskRegistry.names():
        return new
    if 'train' not in task.splits or 'inputs' not in task.output_features or at_tokenization(task) is None:
        raise UserError(f'Task {name!r} has no split `train` with text of inputs and targets to take examples from.')
    available = sum(1 for _ in task.source.get_dataset('train', shuffle=False).take(shots))
    if available < shots:
        raise UserError(
            f'Task {name!r} has {available} training examples; {shots} before a question would repeat them.'
        )
    before, then = at_tokenization(task)
    source = seqio.experimental.FewshotDataSource(
        task.source, num_shots=shots, train_preprocessors=before, eval_preprocessors=before
    )
    put_before = functools.partial(
        seqio.experimental.fewshot_preprocessor, example_separator=separator, targets_prefix=targets_prefix
    )
    seqio.TaskRegistry.add_provider(new, task.replace(name=new, source=source, preprocessors=[put_before, *then]))
    return new
