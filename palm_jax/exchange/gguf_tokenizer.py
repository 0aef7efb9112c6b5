"""The tokenizer of a GGUF file as a `tokenizer.json` of Hugging Face tokenizers, from the metadata alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from palm_jax.errors import UserError
from palm_jax.exchange.gguf_file import GgufFile

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # llama.cpp's types of tokens
_SPACE_MARK = '▁'
_NAMES = {'bos': 'bos_token', 'eos': 'eos_token', 'unknown': 'unk_token', 'padding': 'pad_token'}
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
    r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)


def _split_by(pattern: str) -> Callable[[], list[Any]]:
    def parts() -> list[Any]:
        from tokenizers import Regex, pre_tokenizers

        split = pre_tokenizers.Split(Regex(pattern), behavior='isolated')
        return [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]

    return parts


def _words_of_gpt2() -> list[Any]:
    from tokenizers import pre_tokenizers

    return [pre_tokenizers.ByteLevel(add_prefix_space=False)]


def _digits_and_words_of_gpt2() -> list[Any]:
    from tokenizers import pre_tokenizers

    return [pre_tokenizers.Digits(individual_digits=True), *_words_of_gpt2()]


# How a text is split before BPE, by `tokenizer.ggml.pre`.
_SPLITS: dict[str, Callable[[], list[Any]]] = {
    'gpt-2': _words_of_gpt2,
    'smollm': _digits_and_words_of_gpt2,
    'command-r': _digits_and_words_of_gpt2,
    'llama-bpe': _split_by(_WORDS.replace('DIGITS', '{1,3}')),
    'qwen2': _split_by(_WORDS.replace('DIGITS', '')),
}
_COMPOSED = ('qwen2',)  # texts are in Unicode's form NFC
_WHOLE_WORDS = ('llama-bpe',)  # a word that is a token is never merged from parts


def content(file: GgufFile) -> dict[str, Any]:
    """Return the content of the file of a `vocabularies.HuggingFace`: tokenizer, special tokens, chat template.

    A model that was trained without BOS has `adds_start` False; its padding is the token that separates documents.

    Raises:
      UserError: if the tokenizer is of a kind that is not known, or metadata are missing.
    """
    kind = file.get('tokenizer.ggml.model')
    makers = {'gpt2': _byte_level, 'llama': _sentencepiece}
    if kind not in makers:
        raise UserError(f'{file.path} has a tokenizer of the kind {kind!r}. Known: {", ".join(makers)}.')
    tokens, end = file.get('tokenizer.ggml.tokens'), file.get('tokenizer.ggml.eos_token_id')
    if not tokens or end is None:
        raise UserError(f'{file.path} lacks tokenizer.ggml.tokens or tokenizer.ggml.eos_token_id among its metadata.')
    types = file.get('tokenizer.ggml.token_type', [1] * len(tokens))
    tokenizer = makers[kind](file, tokens, types)
    _add_special(tokenizer, tokens, types)
    named = {name: file.get(f'tokenizer.ggml.{name}_token_id') for name in ('bos', 'eos', 'unknown', 'padding')}
    adds_start = _adds_start(file) and named['bos'] is not None
    start = _start_id(file, tokens, types, end, adds_start)
    if adds_start:
        _begin_with(tokenizer, tokens[start], start)
    template = file.get('tokenizer.chat_template')
    special = {_NAMES[name]: tokens[number] for name, number in named.items() if number is not None}
    result = {'tokenizer': json.loads(tokenizer.to_str()), 'start_id': start, 'end_id': end, 'special_tokens': special}
    return result | ({} if adds_start else {'adds_start': False}) | ({'chat_template': template} if template else {})


def _adds_start(file: GgufFile) -> bool:
    """Return whether BOS precedes every text: the file says so; otherwise llama.cpp's default for its tokenizer."""
    by_default = file.get('tokenizer.ggml.model') == 'llama' or file.get('tokenizer.ggml.pre') == 'llama-bpe'
    return bool(file.get('tokenizer.ggml.add_bos_token', by_default))


def _begin_with(tokenizer: Any, start: str, number: int) -> None:
    """Let a tokenizer put BOS before every text, for those who open an export in Transformers."""
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=f'{start} $A', pair=f'{start} $A $B', special_tokens=[(start, number)]
    )


def _start_id(file: GgufFile, tokens: list[str], types: list[int], end: int, adds_start: bool) -> int:
    names = ('bos', 'unknown', 'padding') if adds_start else ('unknown', 'padding', 'bos')
    found = [file.get(f'tokenizer.ggml.{name}_token_id') for name in names]
    if not adds_start and '<|endoftext|>' in tokens:
        found.insert(0, tokens.index('<|endoftext|>'))
    found += [number for number, kind in enumerate(types) if kind == _CONTROL]
    return next((number for number in found if number not in (None, end)), 0)


def _add_special(tokenizer: Any, tokens: list[str], types: list[int]) -> None:
    from tokenizers import AddedToken

    for kind in (_CONTROL, _USER_DEFINED):
        names = [token for token, its_kind in zip(tokens, types, strict=True) if its_kind == kind]
        tokenizer.add_tokens([AddedToken(name, special=kind == _CONTROL, normalized=False) for name in names])


def _byte_level(file: GgufFile, tokens: list[str], types: list[int]) -> Any:
    """Return BPE over bytes in GPT-2's alphabet."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    del types
    split, merges = file.get('tokenizer.ggml.pre', 'gpt-2'), file.get('tokenizer.ggml.merges')
    if split not in _SPLITS:
        raise UserError(
            f'{file.path} splits texts by the rules {split!r}, which are not known here. Known: {", ".join(_SPLITS)}.'
        )
    if merges is None:
        raise UserError(f'{file.path} lacks tokenizer.ggml.merges among its metadata.')
    pairs = [tuple(merge.split(' ', 1)) for merge in merges]
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(ids, pairs, ignore_merges=split in _WHOLE_WORDS))
    if split in _COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_SPLITS[split]())
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(file: GgufFile, tokens: list[str], types: list[int]) -> Any:
    """Return SentencePiece's BPE, whose merges are in the order of the scores of their results."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = file.get('tokenizer.ggml.scores')
    if scores is None:
        raise UserError(f'{file.path} lacks tokenizer.ggml.scores among its metadata.')
    if file.architecture_name == 'gemma':  # its scores do not follow the merges; runs of blanks are written as blanks
        scores = [-number for number in range(len(tokens))]
        tokens = [_SPACE_MARK * len(token) if token.isspace() and not token.strip(' ') else token for token in tokens]
    ids = {token: number for number, token in enumerate(tokens)}
    merges: list[tuple[float, int, int, tuple[str, str]]] = []
    for number, piece in enumerate(tokens):
        if types[number] in (_UNKNOWN, _CONTROL, _BYTE):
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                merges.append((-scores[number], ids[left], ids[right], (left, right)))
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None)
    pairs = [pair for *_, pair in sorted(merges)]
    tokenizer = Tokenizer(models.BPE(ids, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    has_prefix = file.get('tokenizer.ggml.add_space_prefix', True)
    before = [normalizers.Prepend(_SPACE_MARK)] if has_prefix else []
    after = [decoders.Strip(' ', 1, 0)] if has_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*before, normalizers.Replace(' ', _SPACE_MARK)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE_MARK, ' '), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return tokenizer
