"""A vocabulary as a `tokenizer.json` of Hugging Face tokenizers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import EOS_ID, PAD_ID, UNK_ID, Bytes, HuggingFace, SentencePiece

_SPECIAL = {PAD_ID: '<pad>', EOS_ID: '</s>', UNK_ID: '<unk>'}
_SPACE_MARK = '▁'


def write(vocabulary: ExtendedVocabulary, directory: Path, length: int) -> None:
    """tokenizer.json and tokenizer_config.json, which `AutoTokenizer` reads.

    A text becomes its ids behind the start mark, id 0, as the model was trained. A literal `▁` is
    taken for a blank there, and is not here.

    Args:
      vocabulary: bytes or SentencePiece (BPE), with its marks; a tokenizer.json is written as it was.
      directory: to write to.
      length: that the model was trained on.
    """
    from tokenizers import AddedToken, processors

    if isinstance(vocabulary.text, HuggingFace):
        vocabulary.text.write_original(directory)
        return
    tokenizer = _of_bytes() if isinstance(vocabulary.text, Bytes) else _of_sentencepiece(vocabulary.text)
    special = [AddedToken(name, special=True, normalized=False) for name in _SPECIAL.values()]
    marks = [vocabulary.decode([i]) for i in range(vocabulary.text.size, vocabulary.size)]
    special += [AddedToken(name, special=True, normalized=False) for name in marks]
    tokenizer.add_special_tokens(special)
    start = _SPECIAL[PAD_ID]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f'{start} $A', pair=f'{start} $A $B', special_tokens=[(start, PAD_ID)]
    )
    tokenizer.save(str(directory / 'tokenizer.json'))
    settings = {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'bos_token': start,
        'eos_token': _SPECIAL[EOS_ID],
        'unk_token': _SPECIAL[UNK_ID],
        'pad_token': start,
        'padding_side': 'left',
        'clean_up_tokenization_spaces': False,
        'model_max_length': length,
    }
    (directory / 'tokenizer_config.json').write_text(json.dumps(settings, indent=2) + '\n')


def their_ids(vocabulary: ExtendedVocabulary) -> np.ndarray:
    """int64 [V]: the id in tokenizer.json of every id here; only those of a foreign tokenizer differ."""
    text = vocabulary.text
    return text.their_ids if isinstance(text, HuggingFace) else np.arange(vocabulary.size)


def differences(vocabulary: ExtendedVocabulary, directory: Path, texts: Sequence[str]) -> list[str]:
    """The texts that `tokenizer.json` encodes or decodes otherwise."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / 'tokenizer.json'))
    theirs = their_ids(vocabulary)

    def is_same(text: str) -> bool:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return ids == theirs[vocabulary.encode(text)].tolist() and tokenizer.decode(ids) == vocabulary.decode(
            vocabulary.encode(text)
        )

    return [text for text in texts if not is_same(text)]


def _of_bytes():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    # GPT-2's way to write any byte as a printable character; an id is the byte behind the special ones.
    printable = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    ids = {name: i for i, name in _SPECIAL.items()} | {characters[b]: b + len(_SPECIAL) for b in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], unk_token=_SPECIAL[UNK_ID]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _of_sentencepiece(vocabulary: SentencePiece):
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = [vocabulary.piece(i) for i in range(vocabulary.size)]
    ids = {_SPECIAL.get(i, piece): i for i, piece in enumerate(pieces)}
    merges = []  # pieces stand in the order in which SentencePiece found them, which is that of merging
    for i, piece in enumerate(pieces):
        if i in _SPECIAL or vocabulary.is_byte(i):
            continue
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [(left, right) for left, right in splits if left in ids and right in ids]
        merges += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token=_SPECIAL[UNK_ID], byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(' ', _SPACE_MARK)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE_MARK, ' '), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer
