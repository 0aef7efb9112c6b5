"""Words and phrases as the token ids that a vocabulary makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from palm_jax.data.vocabulary.vocabularies import load_vocabulary
from palm_jax.errors import UserError


def token_ids(phrases: str | Sequence[str], vocabulary: str) -> tuple[tuple[int, ...], ...]:
    """Return the ids of phrases as they occur in texts: as given and with a capital, each after a blank or not.

    Args:
      phrases: phrases, or a file with one per line.
      vocabulary: vocabulary of the model, see `load_vocabulary`; it is not read if there are no phrases.

    Raises:
      UserError: the file cannot be read, or a phrase is empty.
    """
    if isinstance(phrases, str):
        try:
            phrases = [line.strip() for line in Path(phrases).read_text(encoding='utf-8').splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f'UNLIKELY_PHRASES = {phrases!r}: the file cannot be read: {error}. For one phrase write '
                f'--gin.UNLIKELY_PHRASES="[\'{phrases}\']".'
            ) from None
    if empty := [phrase for phrase in phrases if not isinstance(phrase, str) or not phrase.strip()]:
        raise UserError(f'UNLIKELY_PHRASES has {empty[0]!r}; every phrase must be a text.')
    if not phrases:
        return ()
    encode, found = load_vocabulary(vocabulary).encode, {}
    for phrase in phrases:
        for form in dict.fromkeys((phrase, phrase[:1].upper() + phrase[1:])):
            for text in (form, f' {form}'):
                found[tuple(encode(text))] = None
    return tuple(ids for ids in found if ids)
