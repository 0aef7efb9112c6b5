"""Training of SentencePiece vocabularies with PaLM's settings (paper, section 2.2)."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece
from tqdm import tqdm

from palm_jax.data.vocabulary.vocabularies import SPACE_MARK, SentencePiece
from palm_jax.errors import UserError
from palm_jax.special_ids import EOS_ID, PAD_ID, UNK_ID

_LOGGER = logging.getLogger(__name__)
_PALM_SETTINGS: dict[str, Any] = {
    'model_type': 'bpe',
    'byte_fallback': True,
    'split_digits': True,
    'allow_whitespace_only_pieces': True,
    'remove_extra_whitespaces': False,
    'add_dummy_prefix': False,
    'normalization_rule_name': 'identity',
    'character_coverage': 0.9999,
    'pad_id': PAD_ID,
    'eos_id': EOS_ID,
    'unk_id': UNK_ID,
    'bos_id': -1,
    'max_sentence_length': 1 << 16,
    'minloglevel': 2,
}


def fit(
    texts: Iterable[str],
    size: int,
    path: Path,
    max_bytes: int = 8_000_000,
    setting: Callable[[int], str] = '--gin.VOCABULARY_SIZE={}'.format,
) -> SentencePiece:
    """Train a SentencePiece vocabulary (BPE) with PaLM's settings, and write it to `path`.

    Args:
      texts: training texts, read until `max_bytes` characters have been seen.
      size: number of ids, including the 3 special ones and the 256 bytes.
      path: `.model` file to write, completely or not at all.
      max_bytes: number of characters to train on.
      setting: returns how a user sets the size, for the message about one that does not do.

    Raises:
      UserError: if there is too little text for this number of pieces.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix('.unfinished')
    start = time.monotonic()
    try:
        with (
            unfinished.open('wb') as model,
            tqdm(
                total=max_bytes, unit=' characters', unit_scale=True, desc=f'text for {size} pieces', leave=False
            ) as progress,
        ):
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_passages(texts, max_bytes, progress),
                model_writer=model,
                vocab_size=size,
                **_PALM_SETTINGS,
            )
    except RuntimeError as error:
        unfinished.unlink()
        raise UserError(
            f'A vocabulary of {size:,} pieces could not be trained: {_reason(str(error), size, setting)}'
        ) from error
    unfinished.replace(path)
    _LOGGER.info('trained a vocabulary of %d pieces in %.0f s: %s', size, time.monotonic() - start, path)
    return SentencePiece(str(path))


def trainer_flags() -> str:
    """Return PaLM's settings as options of `spm_train`, SentencePiece's own program."""
    settings = {name: value for name, value in _PALM_SETTINGS.items() if name != 'minloglevel'}
    values = {name: str(value).lower() if isinstance(value, bool) else value for name, value in settings.items()}
    return ' '.join(f'--{name}={value}' for name, value in values.items())


def _reason(message: str, size: int, setting: Callable[[int], str]) -> str:
    """Return in words why SentencePiece refuses a size, with one that would do where the message has it."""
    if match := re.search(r'value <= (\d+)', message):
        return f'the text has too few different parts of words; it allows at most {match[1]}: {setting(int(match[1]))}'
    if match := re.search(rf'{size} vs (\d+)', message):
        return (
            f'every byte, special token and frequent character takes one piece; this text needs at least {match[1]}: '
            f'{setting(int(match[1]))}'
        )
    return message.splitlines()[-1].strip()


def _passages(texts: Iterable[str], max_bytes: int, progress: tqdm) -> Iterator[str]:
    """Yield passages of up to a thousand characters; newlines stay, so that pieces may contain them."""
    seen = 0
    for text in texts:
        for first in range(0, len(text), 1000):
            passage = text[first : first + 1000].replace(SPACE_MARK, ' ').replace('\0', ' ')
            seen += len(passage)
            progress.update(len(passage))
            yield passage
            if seen >= max_bytes:
                progress.set_description('merging pieces')
                return
    progress.set_description('merging pieces')
