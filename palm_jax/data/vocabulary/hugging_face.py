"""Tokenizers of Hugging Face as vocabularies."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palm_jax.data.vocabulary.chat_template import ChatTemplate
from palm_jax.data.vocabulary.vocabulary import Ids, byte_of, write_vocabulary
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory
from palm_jax.special_ids import BOS_ID, EOS_ID, PAD_ID

_SEPARATOR = '<|endoftext|>'  # of documents, in the tokenizers of models that were trained without BOS


@dataclasses.dataclass(frozen=True)
class HuggingFace:
    """A `tokenizer.json` of Hugging Face tokenizers.

    Two swaps renumber the ids so that BOS and EOS have the ids that they have everywhere here; `original_ids` is the
    mapping.

    Attributes:
      path: tokenizer.json, next to its tokenizer_config.json, or a file that `save` wrote.
      of_base: whether it is the tokenizer of published weights: texts begin with BOS only if Transformers puts it
        there, as the weights were trained. Otherwise they always do.
    """

    path: str
    of_base: bool = False

    @functools.cached_property
    def _content(self) -> dict[str, Any]:
        """The tokenizer's JSON with the ids of BOS (`start_id`) and EOS (`end_id`), and some of its settings."""
        file = Path(self.path)
        try:
            content = json.loads(file.read_text(encoding='utf-8'))
            if 'start_id' in content:
                return content
            settings = json.loads(file.with_name('tokenizer_config.json').read_text(encoding='utf-8'))
        except FileNotFoundError as error:
            raise UserError(f'No vocabulary at {error.filename}.') from None
        except (ValueError, UnicodeDecodeError) as error:
            raise UserError(f'{self.path} is not a valid tokenizer.json ({error}).') from None
        _place_added_tokens(content)
        names = {name: settings.get(name) for name in ('bos_token', 'pad_token', 'unk_token', 'eos_token')}
        names = {name: v['content'] if isinstance(v, dict) else v for name, v in names.items() if v is not None}
        end = names.get('eos_token')
        ids = {token['content']: token['id'] for token in content.get('added_tokens', ())}
        special = [token['content'] for token in content.get('added_tokens', ()) if token.get('special')]
        adds_start = not self.of_base or _adds_start(content, names.get('bos_token'))
        first = [] if adds_start else [token for token in special if token == _SEPARATOR]
        start = next((token for token in (*first, *names.values(), *special) if token != end), None)
        ids |= content.get('model', {}).get('vocab', {}) if isinstance(content['model']['vocab'], dict) else {}
        if start not in ids or end not in ids:
            raise UserError(f'{self.path}: its tokenizer_config.json does not define distinct bos_token and eos_token.')
        template = _chat_template(file, settings)
        found = {'tokenizer': content, 'start_id': ids[start], 'end_id': ids[end], 'special_tokens': names}
        found |= {} if adds_start else {'adds_start': False}
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

    @functools.cached_property
    def size(self) -> int:
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    @functools.cached_property
    def fingerprint(self) -> str:
        mapping = {name: self._content[name] for name in ('tokenizer', 'start_id', 'end_id')}
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

    @functools.cached_property
    def has_text(self) -> np.ndarray:
        found = np.array([self._tokenizer.id_to_token(int(i)) is not None for i in self.original_ids])
        found[[PAD_ID, EOS_ID]] = False
        if self.unknown_id is not None:
            found[self.unknown_id] = False
        return found

    @functools.cached_property
    def special_tokens(self) -> dict[str, str]:
        """Special tokens by their names in tokenizer_config.json, such as `bos_token`; those that it has."""
        ids = {'bos_token': self._content['start_id'], 'eos_token': self._content['end_id']}
        return self._content.get('special_tokens') or {name: self._tokenizer.id_to_token(i) for name, i in ids.items()}

    @property
    def start_ids(self) -> tuple[int, ...]:
        return (BOS_ID,) if self._content.get('adds_start', True) else ()

    @functools.cached_property
    def prefix_id(self) -> int:
        if self.start_ids:
            return BOS_ID
        there = self._tokenizer.token_to_id(self.special_tokens.get('bos_token', ''))
        return EOS_ID if there is None else int(self._ids_here[there])

    @functools.cached_property
    def unknown_id(self) -> int | None:
        model = self._content['tokenizer']['model']
        there = self._tokenizer.token_to_id(model['unk_token']) if model.get('unk_token') else model.get('unk_id')
        return None if there is None else int(self._ids_here[there])

    def token_bytes(self, i: int) -> bytes | None:
        token = self._tokenizer.id_to_token(int(self.original_ids[i])) if i < self.size else None
        if token is None or i in (PAD_ID, EOS_ID):
            return None
        decoders = self._decoders
        if token in self._added:
            return token.encode()
        if 'ByteLevel' in decoders:
            table = _bytes_of_characters()
            return bytes(table[c] for c in token) if set(token) <= table.keys() else token.encode()
        if 'ByteFallback' in decoders and re.fullmatch(r'<0x[0-9A-F]{2}>', token):
            return byte_of(token)
        if {'Metaspace', 'Replace'} & decoders:
            return token.replace('▁', ' ').encode()
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
        write_vocabulary(RunDirectory(directory).tokenizers_vocabulary, json.dumps(self._content).encode())

    def encode_marked(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[bool]]:
        """Return the ids of a text, and whether each has characters in one of the spans (first, end)."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        marked = [any(first < end and start < last for start, end in spans) for first, last in encoding.offsets]
        return self._ids_here[encoding.ids].tolist(), marked

    @functools.cached_property
    def chat_template(self) -> ChatTemplate | None:
        template = self._content.get('chat_template')
        return None if template is None else ChatTemplate(template, self.special_tokens, self._added)

    def write_original(self, directory: Path) -> tuple[int, int]:
        """Write the original tokenizer.json; return its ids of BOS and EOS."""
        (directory / 'tokenizer.json').write_text(
            json.dumps(self._content['tokenizer'], ensure_ascii=False), encoding='utf-8'
        )
        return self._content['start_id'], self._content['end_id']


def _adds_start(content: dict[str, Any], start: str | None) -> bool:
    """Return whether Transformers puts BOS before a text, which the post-processor of tokenizer.json does."""
    from tokenizers import Tokenizer

    try:
        tokens = Tokenizer.from_str(json.dumps(content)).encode('a').tokens
    except Exception:
        return True  # an invalid file, which is reported where it is used
    return start is not None and tokens[:1] == [start]


def _chat_template(tokenizer: Path, settings: dict[str, Any]) -> str | None:
    """Return the template of chats beside a tokenizer.json or in its settings, the default one of several."""
    file, template = tokenizer.with_name('chat_template.jinja'), settings.get('chat_template')
    if file.is_file():
        return file.read_text(encoding='utf-8')
    if isinstance(template, list):
        template = next((each.get('template') for each in template if each.get('name') == 'default'), None)
    return template


def _place_added_tokens(content: dict[str, Any]) -> None:
    """Put added tokens with the ids that a tokenizer.json declares into the model's vocabulary, if there are holes.

    The library numbers added tokens from the number of pieces on, whatever the file says, unless the vocabulary has
    them.
    """
    vocab = content['model'].get('vocab')
    if not isinstance(vocab, dict):
        return
    missing = [token for token in content.get('added_tokens', ()) if token['content'] not in vocab]
    if [token['id'] for token in missing] != list(range(len(vocab), len(vocab) + len(missing))):
        vocab |= {token['content']: token['id'] for token in missing}


@functools.cache
def _bytes_of_characters() -> dict[str, int]:
    """Return the byte of each character in the tokens of a byte-level BPE.

    Printable bytes are written as themselves, the others, in order, as the characters from U+0100 (GPT-2, Radford et
    al., 2019).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}
