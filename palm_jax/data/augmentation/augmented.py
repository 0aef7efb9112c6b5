"""A source of examples whose training part has further ones, made of its own."""

from __future__ import annotations

import abc
import collections
import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from palm_jax.bounds import AtLeast, Seed, checked
from palm_jax.data.readers.splits import Split, text_key
from palm_jax.errors import UserError, closest
from palm_jax.wording import counted

_LOGGER = logging.getLogger(__name__)
_TRIES = 5  # for a copy that differs from all others


class Augmenter(abc.ABC):
    """Makes examples of an example: a frozen dataclass that gin builds, listed in AUGMENTERS.

    Attributes:
      name: name that the origin of its examples says.
    """

    name: str

    def prepared(self, examples: Sequence[Any]) -> Augmenter:
        """Return an augmenter that knows the training part; it sees nothing else."""
        del examples
        return self

    @abc.abstractmethod
    def augment(self, example: Any, copy: int, rng: np.random.Generator) -> Any:
        """Return a changed example, or the same one where nothing can be changed.

        Args:
          example: training example.
          copy: number of the example among those made of the same one.
          rng: source of all random choices; a function of the seed and of the number of the row and the copy.
        """

    def origin(self, example: Any, copy: int) -> str:
        """Return what the location of a made example says after `augmented by`; see `augment`."""
        del example, copy
        return self.name


class TextAugmenter(Augmenter):
    """Changes the words of a text; works for every example that has texts the model reads."""

    @abc.abstractmethod
    def change(self, words: list[str], copy: int, rng: np.random.Generator) -> list[str]:
        """Return changed words; the arguments are those of `augment`."""

    def augment(self, example: Any, copy: int, rng: np.random.Generator) -> Any:
        """Return the example with changed texts; of a pair, both are changed."""
        return map_texts(self.name, example, lambda text: ' '.join(self.change(text.split(), copy, rng)))


def map_texts(name: str, example: Any, change: Callable[[str], str]) -> Any:
    """Return an example with changed texts, of those that the model reads.

    Args:
      name: name of the augmenter, for messages.
      example: example of a task.
      change: function from a text to a text.

    Raises:
      UserError: the example has tags, which would no longer fit.
    """
    check_texts(name, example)
    return example.map_texts(change)


def check_texts(name: str, example: Any) -> None:
    """Refuse an example of tags, which would no longer fit a changed text.

    Raises:
      UserError: with the binding to change.
    """
    if not hasattr(example, 'map_texts'):
        raise UserError(
            f'{name} changes the words of texts, and tags would no longer fit them: '
            'for gin/heads/tagging.gin take --gin_file=gin/methods/entity_replacement.gin.'
        )


@checked
class AugmentedSource:
    """A table or another source of examples, with further ones after those of its training part.

    The validation part stays as it is, and no example is made whose text it has. The rows that are made say so in their
    location: `table.csv, line 7, augmented by AEDA`. What is made of a row is a function of the seed, of the row's
    number and of the copy's.

    Args:
      source: source of the examples, with `examples(split)`; everything else is asked of it, too.
      augmenters: make the examples; each makes `copies` of a row.
      copies: number of examples that an augmenter makes of a row, at most: a copy that equals another one is left out.
      classes: classes whose rows are augmented: names, `minority` for those with fewer rows than the mean class, or
        None for all.
      seed: seed for all random choices.
    """

    def __init__(
        self,
        source: Any,
        augmenters: Sequence[Augmenter],
        copies: Annotated[int, AtLeast(0)] = 1,
        classes: Literal['minority'] | Sequence[str] | None = None,
        seed: Seed = 0,
    ):
        self._source, self._augmenters, self._copies, self._seed = source, tuple(augmenters), copies, seed
        self._classes = classes

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_'):
            raise AttributeError(name)
        return getattr(self._source, name)

    @property
    def original(self) -> Any:
        """The source without what is made of it."""
        return self._source

    def examples(self, split: Split) -> list[Any]:
        """Return the examples of a split; those that were made are the last of the training part."""
        examples = list(self._source.examples(split))
        return examples + self._made if split == 'train' else examples

    @functools.cached_property
    def _made(self) -> list[Any]:
        originals = list(self._source.examples('train'))
        known = {_key(example) for split in ('train', 'validation') for example in self._source.examples(split)}
        chosen, made = self._chosen(originals), []
        for number, augmenter in enumerate(a.prepared(originals) for a in self._augmenters):
            for row, example in enumerate(originals):
                for copy in range(self._copies if chosen(example) else 0):
                    for attempt in range(_TRIES):
                        rng = np.random.default_rng((self._seed, number, row, copy, attempt))
                        changed = augmenter.augment(example, copy, rng)
                        if (key := _key(changed)) not in known:
                            known.add(key)
                            location = f'{example.location}, augmented by {augmenter.origin(example, copy)}'
                            made.append(dataclasses.replace(changed, location=location))
                            break
        names = ' and '.join(augmenter.name for augmenter in self._augmenters)
        _LOGGER.info(f'{counted(len(made), "training example")} made by {names}, beside {len(originals):,} originals')
        return made

    def _chosen(self, originals: Sequence[Any]) -> Callable[[Any], bool]:
        """A function that says whether an example is to be augmented."""
        if self._classes is None:
            return lambda example: True
        counts = collections.Counter(name for example in originals for name in self._names(example))
        if isinstance(self._classes, str):
            mean = sum(counts.values()) / max(len(counts), 1)
            names = {name for name, count in counts.items() if count < mean}
        else:
            names = set(self._classes)
            if unknown := sorted(names - set(counts)):
                nearest, known = closest(unknown[0], list(counts)), ', '.join(sorted(counts)[:20])
                raise UserError(
                    f'AUGMENT_CLASSES: no training row has the class {unknown[0]!r}.{nearest} Known: {known}.'
                )
        return lambda example: not names.isdisjoint(self._names(example))

    def _names(self, example: Any) -> Sequence[str]:
        """Classes of an example of a labelled table."""
        kind = getattr(self._source, 'kind', None)
        if kind is None or not kind.has_classes:
            raise UserError('AUGMENT_CLASSES needs a class per text: leave it out for this kind of task.')
        return kind.class_names(example.label)


def _key(example: Any) -> str:
    """What identifies the texts of an example, but for white space."""
    return text_key(example.words if hasattr(example, 'words') else example.texts)


def augment(
    source: Any,
    augmenters: Sequence[Augmenter] = (),
    copies: Annotated[int, AtLeast(0)] = 1,
    classes: Literal['minority'] | Sequence[str] | None = None,
    seed: Seed = 0,
    wrappers: Sequence[Callable[[Any], Any]] = (),
) -> Any:
    """Return a source with further training examples, see `AugmentedSource`; the source itself without any.

    Args:
      source: source of the examples.
      augmenters: make the examples; none by default.
      copies: number of examples that an augmenter makes of a row, at most.
      classes: classes whose rows are augmented: names, `minority` or None for all.
      seed: seed for all random choices.
      wrappers: functions from a source to one with examples from elsewhere, which are augmented, too.
    """
    for wrapper in wrappers:
        source = wrapper(source)
    return AugmentedSource(source, augmenters, copies, classes, seed) if augmenters and copies else source
