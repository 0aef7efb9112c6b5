"""Text to token ids and back, without loss.

Ids 0, 1, 2 are padding, end of document and unknown, as in T5. A vocabulary needs no
TensorFlow; `palm_jax.data.tasks` hands it to seqio.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import sentencepiece
from tqdm import tqdm

from palm_jax.errors import UserError, closest

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


@dataclasses.dataclass(frozen=True)
class Marked:
    """A vocabulary with ids above its own for what no text holds.

    From below: the mask, [CLS] and [SEP] of BERT, and the modes of UL2; from the top down the
    sentinels, as in T5. The mapping of text is the vocabulary's own, and so are fingerprint and file.

    Attributes:
      text: the vocabulary of the text.
      extra_ids: how many there are above it.
    """

    MARKS = ('[MASK]', '[CLS]', '[SEP]', '[NLU]', '[NLG]', '[S2S]')

    text: Vocabulary
    extra_ids: int = 0

    @property
    def size(self) -> int:
        return self.text.size + self.extra_ids

    @property
    def fingerprint(self) -> str:
        return self.text.fingerprint

    @property
    def num_sentinels(self) -> int:
        """Sentinels there are."""
        return max(0, self.extra_ids - len(self.MARKS))

    def mark(self, name: str) -> int:
        """The id of one of `MARKS`.

        Raises:
          UserError: the vocabulary has no ids for marks.
        """
        if name not in self.MARKS:
            raise UserError(f'No mark is called {name!r}.{closest(name, self.MARKS)} Known: {", ".join(self.MARKS)}.')
        if self.extra_ids < len(self.MARKS):
            raise UserError(
                f'This objective writes {name}, and the vocabulary has EXTRA_IDS = {self.extra_ids} ids above the '
                f"text's. Bind at least {len(self.MARKS)}, and one for every sentinel: --gin.EXTRA_IDS=128"
            )
        return self.text.size + self.MARKS.index(name)

    def sentinel(self, number: int) -> int:
        """The id of sentinel `number`, counted down from the top.

        Raises:
          UserError: there are not so many.
        """
        if number >= self.num_sentinels:
            needed = number + 1 + len(self.MARKS)
            raise UserError(
                f'This objective needs {number + 1} sentinels, and EXTRA_IDS = {self.extra_ids} holds '
                f'{self.num_sentinels}. Bind at least --gin.EXTRA_IDS={needed}, or shorter sequences.'
            )
        return self.size - 1 - number

    def encode(self, text: str) -> list[int]:
        return self.text.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """As of `text`, with marks and sentinels by their names."""
        pieces = []
        for is_text, group in itertools.groupby(map(int, ids), lambda i: i < self.text.size):
            run = list(group)
            pieces.append(self.text.decode(run) if is_text else ''.join(map(self._name, run)))
        return ''.join(pieces)

    def _name(self, mark: int) -> str:
        above = mark - self.text.size
        return self.MARKS[above] if above < len(self.MARKS) else f'<extra_id_{self.size - 1 - mark}>'

    def save(self, path: Path) -> None:
        self.text.save(path)

    @functools.cached_property
    def word_ends(self) -> tuple[np.ndarray, np.ndarray]:
        """bool [V], bool [V]: whether an id's text begins, and ends, inside a word.

        Letters, digits and _ are a word's; a Chinese or Japanese character is a word of its own;
        what is no character by itself (a byte of one) belongs to the word it stands in.
        """
        texts = [self.text.decode([i]) for i in range(self.text.size)]
        begins, ends = (np.zeros(self.size, bool) for _ in range(2))
        begins[: len(texts)] = [bool(t) and _in_word(t[0]) for t in texts]
        ends[: len(texts)] = [bool(t) and _in_word(t[-1]) for t in texts]
        return begins, ends


def _in_word(character: str) -> bool:
    if '\u3040' <= character <= '\u9fff':  # kana and Chinese characters, which no space parts
        return False
    return character.isalnum() or character in ('_', '\ufffd')


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
