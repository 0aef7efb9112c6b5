"""Vocabularies as a `tokenizer.json` of Hugging Face tokenizers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import SPACE_MARK, HuggingFace, SentencePiece
from palm_jax.special_ids import BOS_ID, EOS_ID, UNK_ID

_SPECIAL = {BOS_ID: '<pad>', EOS_ID: '</s>', UNK_ID: '<unk>'}


class Template(NamedTuple):
    """How `AutoTokenizer` encodes a text: BOS, the text and, if `ends` says so, EOS; of pairs both texts in turn.

    Of a base without a start token BOS is left out.
    """

    ends: bool
    padding_side: str


_LANGUAGE_MODEL = Template(ends=False, padding_side='left')


def write(vocabulary: ExtendedVocabulary, directory: Path, length: int, template: Template | None = None) -> None:
    """Write tokenizer.json and tokenizer_config.json for `AutoTokenizer`.

    It encodes a text as BOS and the ids of the text, as the model was trained. Unlike here, it reads a literal `▁` as a
    space.

    Args:
      vocabulary: bytes or SentencePiece (BPE), with its special tokens; the tokens of a tokenizer.json are unchanged.
      directory: directory to write to.
      length: context length that the model was trained on.
      template: special tokens around a text; None is BOS before it, or what an imported tokenizer.json says.
    """
    from tokenizers import AddedToken, Tokenizer

    if isinstance(vocabulary.text, HuggingFace):
        ids = vocabulary.text.write_original(directory)
        tokenizer = Tokenizer.from_file(str(directory / 'tokenizer.json'))
        start, end = (str(tokenizer.id_to_token(i)) for i in ids)
        if template is not None:
            starts = bool(vocabulary.start_ids)
            tokenizer.post_processor = _processor(template, (start, ids[0]), (end, ids[1]), starts)
            tokenizer.save(str(directory / 'tokenizer.json'))
        template_of_chats = vocabulary.text.chat_template
        settings = {'chat_template': None if template_of_chats is None else template_of_chats.text}
        settings['bos_token'] = vocabulary.text.special_tokens.get('bos_token')
        _write_settings(directory, length, start, end, None, template or _LANGUAGE_MODEL, **settings)
        return
    text = vocabulary.text
    tokenizer = _from_sentencepiece(text) if isinstance(text, SentencePiece) else _from_bytes()
    special = [AddedToken(name, special=True, normalized=False) for name in _SPECIAL.values()]
    above = [vocabulary.decode([i]) for i in range(vocabulary.text.size, vocabulary.size)]
    special += [AddedToken(name, special=True, normalized=False) for name in above]
    tokenizer.add_special_tokens(special)
    start, end = _SPECIAL[BOS_ID], _SPECIAL[EOS_ID]
    tokenizer.post_processor = _processor(template or _LANGUAGE_MODEL, (start, BOS_ID), (end, EOS_ID))
    tokenizer.save(str(directory / 'tokenizer.json'))
    _write_settings(directory, length, start, end, _SPECIAL[UNK_ID], template or _LANGUAGE_MODEL)


def _processor(template: Template, start: tuple[str, int], end: tuple[str, int], starts: bool = True) -> Any:
    from tokenizers import processors

    before, after = f'{start[0]} ' if starts else '', f' {end[0]}' if template.ends else ''
    return processors.TemplateProcessing(
        single=f'{before}$A{after}', pair=f'{before}$A{after} $B{after}', special_tokens=[start, end]
    )


def _write_settings(
    directory: Path, length: int, start: str, end: str, unk: str | None, template: Template, **others: str | None
) -> None:
    settings = {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'bos_token': start,
        'eos_token': end,
        'unk_token': unk,
        'pad_token': start,
        'padding_side': template.padding_side,
        'clean_up_tokenization_spaces': False,
        'model_max_length': length,
        **others,
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    (directory / 'tokenizer_config.json').write_text(json.dumps(settings, indent=2) + '\n', encoding='utf-8')


def original_ids(vocabulary: ExtendedVocabulary) -> np.ndarray:
    """Return int64 [V]: the id in tokenizer.json of every id here; only those of an imported tokenizer differ."""
    text = vocabulary.text
    return text.original_ids if isinstance(text, HuggingFace) else np.arange(vocabulary.size)


def differences(vocabulary: ExtendedVocabulary, directory: Path, texts: Sequence[str]) -> list[str]:
    """Return the texts that `tokenizer.json` encodes or decodes differently."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / 'tokenizer.json'))
    permutation = original_ids(vocabulary)

    def is_same(text: str) -> bool:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return ids == permutation[vocabulary.encode(text)].tolist() and tokenizer.decode(ids) == vocabulary.decode(
            vocabulary.encode(text)
        )

    return [text for text in texts if not is_same(text)]


def _from_bytes():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    # GPT-2's printable character for every byte; the id is the byte plus the number of special tokens.
    printable = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)]
    unprintable = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(unprintable)}
    ids = {name: i for i, name in _SPECIAL.items()} | {characters[b]: b + len(_SPECIAL) for b in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], unk_token=_SPECIAL[UNK_ID]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _from_sentencepiece(vocabulary: SentencePiece):
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = [vocabulary.piece(i) for i in range(vocabulary.size)]
    ids = {_SPECIAL.get(i, piece): i for i, piece in enumerate(pieces)}
    merges: list[tuple[str, str]] = []  # pieces are in the order of the merges of SentencePiece
    for i, piece in enumerate(pieces):
        if i in _SPECIAL or vocabulary.is_byte(i):
            continue
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [(left, right) for left, right in splits if left in ids and right in ids]
        merges += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token=_SPECIAL[UNK_ID], byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(' ', SPACE_MARK)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE_MARK, ' '), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer
