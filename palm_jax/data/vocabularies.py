"""Text to token ids and back, without loss.

Ids 0, 1, 2 are padding, end of document and unknown, as in T5. A vocabulary needs no
TensorFlow; `palm_jax.data.tasks` hands it to seqio.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece
from tqdm import tqdm

from palm_jax.errors import UserError

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
_SPECIAL = 3
_SPACE_MARK = '▁'  # U+2581 stands for the space inside SentencePiece, so text may not hold it as is


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


class Vocabulary(Protocol):
    """What the data layer and the samplers need of a vocabulary."""

    @property
    def size(self) -> int:
        """Number of ids."""

    @property
    def fingerprint(self) -> str:
        """Names the exact mapping; kept in checkpoints."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without an end mark."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; padding and end marks are left out."""

    def save(self, path: Path) -> None:
        """Writes its file to `path`; bytes have none."""


@dataclasses.dataclass(frozen=True)
class Bytes:
    """UTF-8 bytes, shifted by the three special ids (ByT5, arXiv 2105.13626)."""

    @property
    def size(self) -> int:
        return 256 + _SPECIAL

    @property
    def fingerprint(self) -> str:
        return 'bytes'

    def encode(self, text: str) -> list[int]:
        return [byte + _SPECIAL for byte in text.encode('utf-8', errors='surrogatepass')]

    def decode(self, ids: Sequence[int]) -> str:
        values = bytes(int(i) - _SPECIAL for i in ids if _SPECIAL <= int(i) < self.size)
        return values.decode('utf-8', errors='replace')

    def save(self, path: Path) -> None:
        del path


@dataclasses.dataclass(frozen=True)
class SentencePiece:
    """A SentencePiece model with PaLM's settings (paper, section 2.2).

    Bytes stand in for characters it has never seen, numbers are split into digits, white
    space is kept exactly: `decode(encode(text)) == text` for every text.

    Attributes:
      path: the `.model` file.
    """

    path: str

    @functools.cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        if not Path(self.path).is_file():
            raise UserError(f'No vocabulary at {self.path}. Make one with: python -m tools.train_vocabulary --help')
        try:
            return sentencepiece.SentencePieceProcessor(model_file=self.path)
        except (RuntimeError, OSError) as error:
            raise UserError(f'{self.path} is not a SentencePiece model ({error}).') from error

    @property
    def size(self) -> int:
        return self._processor.vocab_size()

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._processor.serialized_model_proto()).hexdigest()[:16]
        return f'sentencepiece_{self.size}_{digest}'

    @functools.cached_property
    def _space_mark_ids(self) -> list[int]:
        return [self._processor.piece_to_id(f'<0x{byte:02X}>') for byte in _SPACE_MARK.encode()]

    def encode(self, text: str) -> list[int]:
        if _SPACE_MARK not in text:
            return self._processor.encode(text)
        first, *rest = self._processor.encode(text.split(_SPACE_MARK))
        return first + [i for ids in rest for i in (*self._space_mark_ids, *ids)]

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode([int(i) for i in ids if int(i) not in (PAD_ID, EOS_ID)])

    def save(self, path: Path) -> None:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._processor.serialized_model_proto())


def named(name: str) -> Vocabulary:
    """`bytes`, or the SentencePiece model at a path."""
    return Bytes() if name == 'bytes' else SentencePiece(str(Path(name).expanduser()))


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
            'Give more text, or a smaller VOCABULARY_SIZE.'
        ) from error
    unfinished.replace(path)
    print(f'fitted a vocabulary of {size} pieces in {time.monotonic() - start:.0f} s: {path}')
    return SentencePiece(str(path))


def _passages(texts: Iterable[str], max_bytes: int, progress: tqdm) -> Iterator[str]:
    """Passages of up to a thousand characters, newlines kept so that pieces may hold them."""
    seen = 0
    for text in texts:
        for first in range(0, len(text), 1000):
            passage = text[first : first + 1000].replace(_SPACE_MARK, ' ').replace('\0', ' ')
            seen += len(passage)
            progress.update(len(passage))
            yield passage
            if seen >= max_bytes:
                progress.set_description('merging pieces')
                return
    progress.set_description('merging pieces')
