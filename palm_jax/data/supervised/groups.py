"""The groups of a table's rows, from one of its columns, for training that looks at groups."""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from palm_jax.data.supervised.examples import Batch
from palm_jax.data.supervised.labelled_example import Example
from palm_jax.data.supervised.labelled_text import LabelledTable
from palm_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class GroupIds:
    """The number of each training row's group as the feature `groups`, int32 [E]; see `LabelledText.further`.

    Groups are numbered from 1 in alphabetical order; a row with an empty cell has none, and the number 0.
    """

    reads: ClassVar = 'texts'

    def features(self, examples: Sequence[Example], table: LabelledTable) -> Batch:
        """Return the features of training examples.

        Raises:
          UserError: the table is not one of labelled texts.
        """
        if not isinstance(table, LabelledTable):
            raise UserError(
                'GroupIds needs a table of labelled texts: --gin_file=gin/heads/classification.gin, multilabel.gin or '
                'regression.gin.'
            )
        ids = {name: number for number, name in enumerate(group_sizes(table), 1)}
        numbers = np.array([ids.get(example.group or '', 0) for example in examples], np.int32)
        if without := int((numbers == 0).sum()):
            _LOGGER.warning(f'{without:,} of {len(numbers):,} training rows have no group; their loss is their own.')
        return {'groups': numbers}


def group_sizes(table: LabelledTable) -> dict[str, int]:
    """Return the number of training rows of each group, in alphabetical order of the groups.

    Args:
      table: table; without a GROUP_COLUMN it has no groups.
    """
    if not table.group_column:
        return {}
    counts = collections.Counter(e.group for e in table.examples('train') if e.group)
    return {name: counts[name] for name in sorted(counts)}
