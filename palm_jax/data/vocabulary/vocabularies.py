"""Text to token ids and back, without loss.

Ids 0, 1 and 2 are padding (also BOS), EOS and unknown, as in T5; see `palm_jax.special_ids`. A vocabulary needs no
TensorFlow; `palm_jax.data.registry.tasks` passes it to seqio.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import sentencepiece

from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory, write_whole
from palm_jax.special_ids import BOS_ID, EOS_ID, PAD_ID

_SPECIAL = 3
SPACE_MARK = '▁'  # U+2581 represents the space inside SentencePiece, so in text it is encoded as bytes


Ids: TypeAlias = Sequence[int] | np.ndarray


class Vocabulary(Protocol):
    """The interface of vocabularies."""

    @property
    def size(self) -> int:
        """Number of ids."""

    @property
    def fingerprint(self) -> str:
        """Name of the exact mapping; checkpoints contain it."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without EOS."""

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode(text)` for every text, computed on all cores."""

    def decode(self, ids: Ids) -> str:
        """Return the text of ids, without padding and EOS."""

    def token_bytes(self, i: int) -> bytes | None:
        """Return the UTF-8 bytes that an id adds to a text; None if it adds none, such as EOS."""

    def save(self, directory: Path) -> None:
        """Write the vocabulary to its file in a directory, if it has one."""


@dataclasses.dataclass(frozen=True)
class Bytes:
    """UTF-8 bytes as ids, above the three special ids (ByT5, arXiv 2105.13626)."""

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

    @functools.cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        if not Path(self.path).is_file():
            raise UserError(f'No vocabulary at {self.path}. Train one with: palm-jax vocabulary --help')
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

    def encode(self, text: str) -> list[int]:
        if SPACE_MARK not in text:
            return self._processor.encode(text)
        first, *rest = self._processor.encode(text.split(SPACE_MARK))
        return first + [i for ids in rest for i in (*self._space_mark_ids, *ids)]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        plain = iter(self._processor.encode([t for t in texts if SPACE_MARK not in t], num_threads=os.cpu_count()))
        return [self.encode(text) if SPACE_MARK in text else next(plain) for text in texts]

    def decode(self, ids: Ids) -> str:
        return self._processor.decode([int(i) for i in ids if int(i) not in (PAD_ID, EOS_ID)])

    def token_bytes(self, i: int) -> bytes | None:
        processor = self._processor
        if i >= self.size or processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i):
            return None
        piece = processor.id_to_piece(i)
        return _byte_of(piece) if processor.is_byte(i) else piece.replace(SPACE_MARK, ' ').encode()

    def save(self, directory: Path) -> None:
        _write_once(RunDirectory(directory).sentencepiece_vocabulary, self._processor.serialized_model_proto())


@dataclasses.dataclass(frozen=True)
class HuggingFace:
    """A `tokenizer.json` of Hugging Face tokenizers.

    Two swaps renumber the ids so that BOS and EOS have the ids that they have everywhere here; `original_ids` is the
    mapping.

    Attributes:
      path: tokenizer.json, next to its tokenizer_config.json, or a file that `save` wrote.
    """

    path: str

    @functools.cached_property
    def _content(self) -> dict[str, Any]:
        """The tokenizer's JSON with the ids of BOS (`start_id`) and EOS (`end_id`)."""
        file = Path(self.path)
        try:
            content = json.loads(file.read_text())
            if 'start_id' in content:
                return content
            settings = json.loads(file.with_name('tokenizer_config.json').read_text())
        except FileNotFoundError as error:
            raise UserError(f'No vocabulary at {error.filename}.') from None
        except (ValueError, UnicodeDecodeError) as error:
            raise UserError(f'{self.path} is not a valid tokenizer.json ({error}).') from None
        names = {name: settings.get(name) for name in ('bos_token', 'pad_token', 'unk_token', 'eos_token')}
        names = {name: v['content'] if isinstance(v, dict) else v for name, v in names.items() if v is not None}
        end = names.pop('eos_token', None)
        ids = {token['content']: token['id'] for token in content.get('added_tokens', ())}
        special = [token['content'] for token in content.get('added_tokens', ()) if token.get('special')]
        start = next((token for token in (*names.values(), *special) if token != end), None)
        ids |= content.get('model', {}).get('vocab', {}) if isinstance(content['model']['vocab'], dict) else {}
        if start not in ids or end not in ids:
            raise UserError(f'{self.path}: its tokenizer_config.json does not define distinct bos_token and eos_token.')
        template = _chat_template(file, settings)
        found = {'tokenizer': content, 'start_id': ids[start], 'end_id': ids[end]}
        return found | ({} if template is None else {'chat_template': template})

    @functools.cached_property
    def _tokenizer(self):
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_str(json.dumps(self._content['tokenizer']))
        except Exception as error:
            raise UserError(f'{self.path} is not a valid tokenizer.json ({error}).') from None

    @functools.cached_property
    def original_ids(self) -> np.ndarray:
        """int64 [V]: the id in the tokenizer of every id here."""
        ids = np.arange(self.size)
        for here, name in ((BOS_ID, 'start_id'), (EOS_ID, 'end_id')):
            there = int(np.flatnonzero(ids == self._content[name])[0])
            ids[[here, there]] = ids[[there, here]]
        return ids

    @functools.cached_property
    def _ids_here(self) -> np.ndarray:
        return np.argsort(self.original_ids)

    @property
    def size(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @functools.cached_property
    def fingerprint(self) -> str:
        mapping = {name: value for name, value in self._content.items() if name != 'chat_template'}
        text = json.dumps(mapping, sort_keys=True)
        return f'tokenizers_{self.size}_{hashlib.sha256(text.encode()).hexdigest()[:16]}'

    def encode(self, text: str) -> list[int]:
        return self._ids_here[self._tokenizer.encode(text, add_special_tokens=False).ids].tolist() if text else []

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [self._ids_here[encoding.ids].tolist() if encoding.ids else [] for encoding in encoded]

    def decode(self, ids: Ids) -> str:
        kept = [int(self.original_ids[int(i)]) for i in ids if int(i) not in (PAD_ID, EOS_ID) and int(i) < self.size]
        return self._tokenizer.decode(kept, skip_special_tokens=False)

    def token_bytes(self, i: int) -> bytes | None:
        token = self._tokenizer.id_to_token(int(self.original_ids[i])) if i < self.size else None
        if token is None or i in (PAD_ID, EOS_ID):
            return None
        decoders = self._decoders
        if token in self._added:
            return token.encode()
        if 'ByteLevel' in decoders:
            byte_of = _bytes_of_characters()
            return bytes(byte_of[c] for c in token) if set(token) <= byte_of.keys() else token.encode()
        if 'ByteFallback' in decoders and re.fullmatch(r'<0x[0-9A-F]{2}>', token):
            return _byte_of(token)
        if {'Metaspace', 'Replace'} & decoders:
            return token.replace(SPACE_MARK, ' ').encode()
        return self.decode([i]).encode()

    @functools.cached_property
    def _decoders(self) -> set[str]:
        """Types of the steps that make text of tokens."""
        decoder = self._content['tokenizer'].get('decoder') or {}
        return {step['type'] for step in (decoder, *decoder.get('decoders', ())) if 'type' in step}

    @functools.cached_property
    def _added(self) -> set[str]:
        return {token['content'] for token in self._content['tokenizer'].get('added_tokens', ())}

    def save(self, directory: Path) -> None:
        _write_once(RunDirectory(directory).tokenizers_vocabulary, json.dumps(self._content).encode())

    @property
    def chat_template(self) -> str | None:
        """The tokenizer's template of chats, in Jinja; None where it has none."""
        return self._content.get('chat_template')

    def write_original(self, directory: Path) -> tuple[int, int]:
        """Write the original tokenizer.json; return its ids of BOS and EOS."""
        (directory / 'tokenizer.json').write_text(json.dumps(self._content['tokenizer'], ensure_ascii=False))
        return self._content['start_id'], self._content['end_id']


def _chat_template(tokenizer: Path, settings: dict[str, Any]) -> str | None:
    """Return the template of chats beside a tokenizer.json or in its settings, the default one of several."""
    file, template = tokenizer.with_name('chat_template.jinja'), settings.get('chat_template')
    if file.is_file():
        return file.read_text(encoding='utf-8')
    if isinstance(template, list):
        template = next((each.get('template') for each in template if each.get('name') == 'default'), None)
    return template


def _byte_of(piece: str) -> bytes:
    """Return the byte that a piece such as `<0xE4>` stands for."""
    return bytes([int(piece[3:5], 16)])


@functools.cache
def _bytes_of_characters() -> dict[str, int]:
    """Return the byte of each character in the tokens of a byte-level BPE.

    Printable bytes are written as themselves, the others, in order, as the characters from U+0100 (GPT-2, Radford et
    al., 2019).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def _write_once(file: Path, content: bytes) -> None:
    if not file.exists():
        write_whole(file, content)


def load_vocabulary(name: str) -> Vocabulary:
    """Return the vocabulary of a name: `bytes`, or the path of a SentencePiece model or a tokenizer.json."""
    if name == 'bytes':
        return Bytes()
    path = str(Path(name).expanduser())
    return HuggingFace(path) if path.endswith('.json') else SentencePiece(path)
