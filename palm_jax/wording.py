"""Numbers with their nouns, and commands, in messages."""

import re
import shlex
from collections.abc import Iterable

_PASSWORD = re.compile(r'(\w+://[^/?#\s:@]*:)[^/?#\s]*@')
_PARAMETER = re.compile(r'(\w+://\S*[?&]password=)[^&#\s]+', re.IGNORECASE)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 row`, `2 rows`, `1,000 rows`; `plural` is the noun with an s unless it is given."""
    return f'{number:,} {noun if number == 1 else plural or noun + "s"}'


def shell_command(words: Iterable[str]) -> str:
    """Return a command as a shell takes it, quoted as people write it: `--gin.LENGTHS="{'targets': 64}"`.

    Passwords in URLs are left out, because commands are kept in reports and locks.
    """
    return ' '.join(map(_quoted, map(without_passwords, words)))


def without_passwords(text: str) -> str:
    """Return a text with *** for every password in a URL."""
    return _PARAMETER.sub(r'\1***', _PASSWORD.sub(r'\1***@', text))


def _quoted(word: str) -> str:
    name, equals, value = word.partition('=')
    if not equals or shlex.quote(name) != name or shlex.quote(value) == value:
        return shlex.quote(word)
    is_simple = "'" in value and not re.search(r'["$`\\!\n]', value)
    return f'{name}="{value}"' if is_simple else f'{name}={shlex.quote(value)}'
