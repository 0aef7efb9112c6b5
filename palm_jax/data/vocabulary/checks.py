"""Checks of a vocabulary that a user brings: its ids, and what it loses of a text."""

from __future__ import annotations

import collections
import itertools
import logging
from collections.abc import Iterable

from palm_jax.data.vocabulary.fitting import trainer_flags
from palm_jax.data.vocabulary.vocabularies import HuggingFace, SentencePiece
from palm_jax.data.vocabulary.vocabulary import Vocabulary
from palm_jax.errors import UserError
from palm_jax.special_ids import EOS_ID, PAD_ID

_LOGGER = logging.getLogger(__name__)
_SAMPLE_TEXTS, _SAMPLE_CHARACTERS = 2_000, 300_000
_SHOWN = 12  # characters in a warning


def check_ids(vocabulary: Vocabulary) -> None:
    """Refuse a SentencePiece model that encodes text with the ids of padding or EOS.

    Raises:
      UserError: with the options to train it with.
    """
    if not isinstance(vocabulary, SentencePiece):
        return
    for i, role in ((PAD_ID, 'padding'), (EOS_ID, 'the end of a text')):
        if i >= vocabulary.size or not vocabulary.is_reserved(i):
            piece = vocabulary.piece(i) if i < vocabulary.size else 'none'
            raise UserError(
                f'{vocabulary.path}: the piece with the id {i} is {piece!r}, but {i} is the id of {role} here, so that '
                f'text would be lost. {_retrain(vocabulary)}'
            )


def warn_about_losses(vocabulary: Vocabulary, name: str, texts: Iterable[str]) -> None:
    """Log what a vocabulary loses of a text: the share of unknown tokens, and lines that do not survive a round trip.

    Args:
      vocabulary: a vocabulary that the user brings.
      name: its name in the message.
      texts: training texts, of which the beginning is read.
    """
    lines = list(_sample(texts))
    encoded = vocabulary.encode_all(lines)
    num_tokens = sum(map(len, encoded))
    num_unknown = sum(i == vocabulary.unknown_id for ids in encoded for i in ids)
    changed = [line for line, ids in zip(lines, encoded, strict=True) if vocabulary.decode(ids) != line]
    if not changed and not num_unknown:
        return
    counts = collections.Counter(''.join(changed))
    lost = [c for c, _ in counts.most_common() if vocabulary.decode(vocabulary.encode(f'a{c}a')) != f'a{c}a']
    shown = ', '.join(map(repr, lost[:_SHOWN])) + (f' and {len(lost) - _SHOWN} more' if len(lost) > _SHOWN else '')
    _LOGGER.warning(
        f'The vocabulary {name} loses text: of a sample of {len(lines):,} lines, {len(changed) / len(lines):.1%} are '
        f'others after encoding and decoding, and {num_unknown / max(num_tokens, 1):.2%} of the tokens are unknown.'
        + (f' Characters that are lost or changed: {shown}.' if lost else f' E.g. {changed[0][:80]!r}.')
        + f' {_retrain(vocabulary)}'
    )


def _sample(texts: Iterable[str]) -> Iterable[str]:
    """Yield lines with their line breaks, from the beginning of the texts."""
    seen = 0
    for text in itertools.islice(texts, _SAMPLE_TEXTS):
        yield from text[: _SAMPLE_CHARACTERS - seen].splitlines(keepends=True)
        seen += len(text)
        if seen >= _SAMPLE_CHARACTERS:
            return


def _retrain(vocabulary: Vocabulary) -> str:
    if isinstance(vocabulary, HuggingFace):
        return 'A tokenizer of bytes, or one with byte_fallback and without a normalizer, loses nothing.'
    return (
        'Train it with: palm-jax vocabulary --train_files=... --size=... --output=..., which loses nothing, or with: '
        f'spm_train {trainer_flags()}'
    )
