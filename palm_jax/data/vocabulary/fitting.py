"""A SentencePiece vocabulary from text, with PaLM's settings (paper, section 2.2)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece
from tqdm import tqdm

from palm_jax.data.vocabulary.vocabularies import EOS_ID, PAD_ID, SPACE_MARK, UNK_ID, SentencePiece
from palm_jax.errors import UserError

_PALM_SETTINGS = {
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


def fit(texts: Iterable[str], size: int, path: Path, max_bytes: int = 8_000_000) -> SentencePiece:
    """Fits a SentencePiece vocabulary (BPE) with PaLM's settings and keeps it at `path`.

    Args:
      texts: read until `max_bytes` characters have been seen.
      size: number of ids, the 3 specials and 256 bytes included.
      path: the `.model` file, written whole or not at all.
      max_bytes: how much text the fit sees.

    Raises:
      UserError: the text is too little for so many pieces.
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
            f'A vocabulary of {size} pieces could not be fitted: {str(error).splitlines()[-1].strip()}\n'
            'Give more text, or another VOCABULARY_SIZE: every byte and every frequent character takes a piece of it.'
        ) from error
    unfinished.replace(path)
    print(f'fitted a vocabulary of {size} pieces in {time.monotonic() - start:.0f} s: {path}')
    return SentencePiece(str(path))


def _passages(texts: Iterable[str], max_bytes: int, progress: tqdm) -> Iterator[str]:
    """Passages of up to a thousand characters, newlines kept so that pieces may hold them."""
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
