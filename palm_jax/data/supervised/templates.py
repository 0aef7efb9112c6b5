"""Templates of columns: `question: {question} context: {context}`."""

from __future__ import annotations

import dataclasses
import functools
import string
from collections.abc import Mapping
from typing import Any

from palm_jax.characters import check_characters
from palm_jax.data.readers.columns import as_text, kind_of
from palm_jax.errors import UserError, closest


@dataclasses.dataclass(frozen=True)
class Template:
    """A text with names of columns in braces; `{0}` is the first column, and `{{` a brace.

    Attributes:
      text: the template.
      binding: macro that holds it, for messages.
    """

    text: str
    binding: str

    @property
    def fields(self) -> list[str]:
        """Names of the columns in the template, without those that are given by their position."""
        return [name for _, name in self._parts if name is not None and not name.isdecimal()]

    def fill(self, values: Mapping[str, Any], location: str | None = None, may_be_empty: bool = False) -> str:
        """Return the template with the values of a row.

        Args:
          values: values by column, in the order of the columns.
          location: file and line, for messages; None leaves it out.
          may_be_empty: whether an empty text is accepted.

        Raises:
          UserError: if a column is missing or holds a list or an object, or if the filled template is empty, as it
            also is when all of its columns are.
        """
        where = '' if location is None else f'{location}: '
        found = [(name, self._value(name, values, where)) for _, name in self._parts if name is not None]
        texts = iter([text for _, text in found])
        filled = ''.join(before + ('' if name is None else next(texts)) for before, name in self._parts)
        is_empty = not filled.strip() or (found and not any(text.strip() for _, text in found))
        if is_empty and not may_be_empty:
            which = ', '.join(repr(name) for name, _ in found)
            what = f'the column {which} is empty.' if len(found) == 1 else f'{self.binding} = {self.text!r} is empty.'
            raise UserError(f'{where}{what}')
        return check_characters(filled, location or f'{self.binding} = {self.text!r}')

    @functools.cached_property
    def _parts(self) -> list[tuple[str, str | None]]:
        """(text, name of the column after it or None) of each part."""
        try:
            parsed = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise UserError(
                f'The template {self.text!r} ({self.binding}): {error}. Put column names in braces: "{{question}}".'
            ) from None
        parts: list[tuple[str, str | None]] = []
        for before, name, suffix, conversion in parsed:
            if name is not None:  # a name may have a colon or an exclamation mark: nothing is formatted here
                name += (f'!{conversion}' if conversion else '') + (f':{suffix}' if suffix else '')
            if name == '':
                raise UserError(
                    f'The template {self.text!r} ({self.binding}) has empty braces; put the name of a column in them, '
                    'or double them: {{}}.'
                )
            parts.append((before, name))
        return parts

    def _value(self, name: str, values: Mapping[str, Any], where: str) -> str:
        if name in values:
            value = values[name]
        elif name.isdecimal() and int(name) < len(values):
            value = list(values.values())[int(name)]
        else:
            known = ', '.join(values)
            raise UserError(
                f'{where}no column {name!r}, which {self.binding} = {self.text!r} names.{closest(name, values)} '
                f'Columns: {known}. Name yours with --gin.{self.binding}=...'
            )
        if isinstance(value, list | dict):
            first = f'{{{name.removesuffix("s")}}}'
            advice = f' Its first text is {first}.' if name == 'answers' and 'answer' in values else ''
            raise UserError(
                f'{where}the column {name!r} holds {kind_of(value)}, but {self.binding} = {self.text!r} needs a text.'
                f'{advice}'
            )
        return as_text(value)
