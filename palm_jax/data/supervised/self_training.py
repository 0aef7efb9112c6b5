"""Texts that a teacher has labelled as further training rows (noisy student, Xie et al., arXiv 1911.04252)."""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import Annotated, Any

from palm_jax.bounds import AtLeast, AtMost, checked
from palm_jax.data.readers import columns
from palm_jax.data.readers.splits import Split, text_key
from palm_jax.data.supervised import teacher_file
from palm_jax.data.supervised.labelled_example import Example
from palm_jax.data.supervised.labelled_text import LabelledTable
from palm_jax.data.supervised.one_class import check_one_class
from palm_jax.wording import counted

_LOGGER = logging.getLogger(__name__)


@checked
class WithTeacherLabels:
    """A labelled table whose training part also has the texts that a teacher is sure of, with its labels.

    They follow the labelled rows, and say so in their location: `teacher.jsonl, line 7, labelled by a teacher`. Texts
    of either part of the labelled table are left out. Everything else is that of the table.

    Args:
      source: labelled table, of one class per text.
      files: path or glob of predictions for texts without labels, see `teacher_file.read`. If they have the column of
        the labels as well, it only measures the teacher.
      threshold: probability from which a class is believed.

    Raises:
      UserError: the labels are not one class per text.
    """

    def __init__(
        self, source: LabelledTable, files: str | None, threshold: Annotated[float, AtLeast(0), AtMost(1)] = 0.95
    ):
        check_one_class('Self-training', source)
        self._source, self._files, self._threshold = source, files, threshold

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_'):
            raise AttributeError(name)
        return getattr(self._source, name)

    def examples(self, split: Split) -> list[Example]:
        """Return the examples of a split; those that the teacher has labelled are the last of the training part."""
        examples = self._source.examples(split)
        return examples + self._taught if split == 'train' else examples

    @functools.cached_property
    def _taught(self) -> list[Example]:
        table = self._source
        known = {text_key(e.texts) for part in ('train', 'validation') for e in table.examples(part)}
        predictions = teacher_file.read(self._files, table)
        taught, right, measured = list[Example](), 0, 0
        for prediction in predictions:
            label, probability = max(prediction.probabilities.items(), key=lambda item: item[1])
            if probability < self._threshold or text_key(prediction.texts) in known:
                continue
            known.add(text_key(prediction.texts))
            taught.append(Example.of(prediction.texts, label, f'{prediction.row.location}, labelled by a teacher'))
            if true := columns.as_text(prediction.row.values.get(table.label_column)):
                measured, right = measured + 1, right + (true == label)
        quality = f'; {right / measured:.1%} of {measured:,} known labels are right' if measured else ''
        share = f'{len(taught):,} of {counted(len(predictions), "text")}'
        log = _LOGGER.info if taught else _LOGGER.warning
        log(f'teacher    {share} have a class of at least {self._threshold:g}, and are new{quality}')
        if not taught:
            _LOGGER.warning('So nothing is added: lower --gin.SELF_TRAINING_THRESHOLD, or name other texts.')
        return taught


@checked
@dataclasses.dataclass(frozen=True)
class TeacherLabels:
    """A function from a table to one that also has a teacher's labels, see `WithTeacherLabels`; for TABLE_WRAPPERS.

    Attributes:
      files: path or glob of predictions for texts without labels.
      threshold: probability from which a class is believed.
    """

    files: str | None = None
    threshold: Annotated[float, AtLeast(0), AtMost(1)] = 0.95

    def __call__(self, source: Any) -> WithTeacherLabels:
        """Return the table with the texts that the teacher is sure of.

        Raises:
          UserError: the labels are not one class per text.
        """
        return WithTeacherLabels(source, self.files, self.threshold)
