"""Text to token ids and back, without loss.

Ids 0, 1 and 2 are padding (also BOS), EOS and unknown, as in T5; see `palm_jax.special_ids`. A vocabulary needs no
TensorFlow; `palm_jax.data.registry.tasks` passes it to seqio.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from palm_jax.data.vocabulary.hugging_face import HuggingFace
from palm_jax.data.vocabulary.vocabulary import Ids, Vocabulary, byte_of, write_vocabulary
from palm_jax.errors import UserError, closest
from palm_jax.run_directory import RunDirectory
from palm_jax.special_ids import BOS_ID, EOS_ID, PAD_ID

__all__ = ['SPACE_MARK', 'Bytes', 'HuggingFace', 'Ids', 'SentencePiece', 'Vocabulary', 'load_vocabulary']

_SPECIAL = 3
SPACE_MARK = '▁'  # U+2581 represents the space inside SentencePiece, so in text it is encoded as bytes


@dataclasses.dataclass(frozen=True)
class Bytes:
    """UTF-8 bytes as ids, above the three special ids (ByT5, arXiv 2105.13626)."""

    start_ids = (BOS_ID,)
    prefix_id = BOS_ID
    chat_template = None

    @property
    def size(self) -> int:
        return 256 + _SPECIAL

    @property
    def fingerprint(self) -> str:
        return 'bytes'

    def encode(self, text: str) -> list[int]:
        return [byte + _SPECIAL for byte in text.encode('utf-8', errors='surrogatepass')]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return list(map(self.encode, texts))

    def decode(self, ids: Ids) -> str:
        values = bytes(int(i) - _SPECIAL for i in ids if _SPECIAL <= int(i) < self.size)
        return values.decode('utf-8', errors='replace')

    @property
    def has_text(self) -> np.ndarray:
        return np.arange(self.size) >= _SPECIAL

    @property
    def unknown_id(self) -> None:
        return None

    def token_bytes(self, i: int) -> bytes | None:
        return bytes([i - _SPECIAL]) if _SPECIAL <= i < self.size else None

    def save(self, directory: Path) -> None:
        del directory


@dataclasses.dataclass(frozen=True)
class SentencePiece:
    """A SentencePiece model with PaLM's settings (paper, section 2.2).

    Unknown characters are encoded as bytes, numbers are split into digits, and white space is preserved:
    `decode(encode(text)) == text` for every text.

    Attributes:
      path: `.model` file.
    """

    path: str

    start_ids = (BOS_ID,)
    prefix_id = BOS_ID
    chat_template = None

    @functools.cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        if not Path(self.path).is_file():
            raise UserError(f'No vocabulary at {self.path}.{_instead(Path(self.path))}')
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
        return [self._processor.piece_to_id(f'<0x{byte:02X}>') for byte in SPACE_MARK.encode()]

    def piece(self, i: int) -> str:
        """Return the piece of an id, with ▁ for spaces."""
        return self._processor.id_to_piece(i)

    def is_byte(self, i: int) -> bool:
        """Return whether an id represents a single byte."""
        return self._processor.is_byte(i)

    def is_reserved(self, i: int) -> bool:
        """Return whether no text is encoded with an id."""
        return self._processor.is_control(i) or self._processor.is_unused(i)

    def encode(self, text: str) -> list[int]:
        if SPACE_MARK not in text:
            return self._processor.encode(text)
        first, *rest = self._processor.encode(text.split(SPACE_MARK))
        return first + [i for ids in rest for i in (*self._space_mark_ids, *ids)]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        plain = iter(self._processor.encode([t for t in texts if SPACE_MARK not in t], num_threads=os.cpu_count()))
        return [self.encode(text) if SPACE_MARK in text else next(plain) for text in texts]

    def decode(self, ids: Ids) -> str:
        size = self.size
        return self._processor.decode([int(i) for i in ids if int(i) < size and int(i) not in (PAD_ID, EOS_ID)])

    @functools.cached_property
    def has_text(self) -> np.ndarray:
        found = [not self.is_reserved(i) and i != self.unknown_id for i in range(self.size)]
        found[PAD_ID] = found[EOS_ID] = False
        return np.array(found)

    @property
    def unknown_id(self) -> int:
        return self._processor.unk_id()

    def token_bytes(self, i: int) -> bytes | None:
        if i >= self.size or not self.has_text[i]:
            return None
        return byte_of(self.piece(i)) if self.is_byte(i) else self.piece(i).replace(SPACE_MARK, ' ').encode()

    def save(self, directory: Path) -> None:
        write_vocabulary(RunDirectory(directory).sentencepiece_vocabulary, self._processor.serialized_model_proto())


def _instead(path: Path) -> str:
    """Return what may have been meant by a path where there is no vocabulary."""
    inside = path / 'tokenizer.json'
    if inside.is_file():
        return f' It is a folder; name the file in it: --gin.VOCABULARY={inside}'
    beside = [str(p) for suffix in ('.model', '.json') for p in path.parent.glob(f'*{suffix}')] if path.name else []
    return f'{closest(str(path), ("bytes", "sentencepiece", *beside))} Train one with: palm-jax vocabulary --help'


def load_vocabulary(name: str) -> Vocabulary:
    """Return the vocabulary of a name: `bytes`, or the path of a SentencePiece model or a tokenizer.json."""
    if name == 'bytes':
        return Bytes()
    path = str(Path(name).expanduser())
    return HuggingFace(path) if path.endswith('.json') else SentencePiece(path)
