"""Numbers with their nouns, and commands, in messages."""

import re
import shlex
from collections.abc import Iterable


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 row`, `2 rows`, `1,000 rows`; `plural` is the noun with an s unless it is given."""
    return f'{number:,} {noun if number == 1 else plural or noun + "s"}'


def shell_command(words: Iterable[str]) -> str:
    """Return a command as a shell takes it, quoted as people write it: `--gin.LENGTHS="{'targets': 64}"`."""
    return ' '.join(map(_quoted, words))


def _quoted(word: str) -> str:
    name, equals, value = word.partition('=')
    if not equals or shlex.quote(name) != name or shlex.quote(value) == value:
        return shlex.quote(word)
    is_simple = "'" in value and not re.search(r'["$`\\!\n]', value)
    return f'{name}="{value}"' if is_simple else f'{name}={shlex.quote(value)}'
