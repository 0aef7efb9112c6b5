"""A row of a table."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
      values: values by column name: texts and, in JSON and Parquet, what else JSON has. See `columns` for reading them.
      location: file and line: `file, line 7`.
      is_line: whether it is a line of a text file, whose only value is the text whatever column a task asks for.
    """

    values: dict[str, Any]
    location: str
    is_line: bool = False
