"""Numbers with their nouns in messages."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 row`, `2 rows`, `1,000 rows`; `plural` is the noun with an s unless it is given."""
    return f'{number:,} {noun if number == 1 else plural or noun + "s"}'
