"""Tokens in responses: their bytes, their names, and their places in the text, whole and streamed."""

import io
import json

import pytest
import sentencepiece

from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import Bytes, HuggingFace, SentencePiece
from palm_jax.serving import tokens
from tests.support import http
from tests.support.server import running

TEXTS = ['def f(x):\n    return x', 'naïve ▁ 中文 日本 🙂\r\n\t', ' a', 'ä' * 3, '\x7f\u2028¡', '<0x41> Ġ']


def sentencepiece_vocabulary(folder):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(['def f(x): return x', 'a naive text of words'] * 20), model_writer=model,
        vocab_size=290, hard_vocab_limit=False, byte_fallback=True, minloglevel=2, pad_id=0, eos_id=1, unk_id=2,
        bos_id=-1, normalization_rule_name='identity', add_dummy_prefix=False, remove_extra_whitespaces=False,
    )  # fmt: skip
    (folder / 'v.model').write_bytes(model.getvalue())
    return SentencePiece(str(folder / 'v.model'))


def tokenizers_vocabulary(folder, kind):
    tokenizers = pytest.importorskip('tokenizers')
    from tokenizers import decoders, models, pre_tokenizers, trainers

    special = ['<pad>', '</s>', '<unk>']
    if kind == 'byte level':
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
        made.train_from_iterator(['def f(x): return x', 'a naive text of words'] * 20, trainer)
    else:
        names = [*special, *(f'<0x{byte:02X}>' for byte in range(256)), '▁', 'a', 'e', 't']
        vocab = {name: number for number, name in enumerate(names)}
        made = tokenizers.Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token='<unk>'))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme='never', split=False)
        made.decoder = decoders.Sequence([decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()])
        made.add_special_tokens(special)
    made.save(str(folder / 'tokenizer.json'))
    settings = {'bos_token': '<pad>', 'eos_token': '</s>', 'unk_token': '<unk>'}
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
    return HuggingFace(str(folder / 'tokenizer.json'))


KINDS = {
    'bytes': lambda folder: Bytes(),
    'sentencepiece': sentencepiece_vocabulary,
    'byte level': lambda folder: tokenizers_vocabulary(folder, 'byte level'),
    'byte fallback': lambda folder: tokenizers_vocabulary(folder, 'byte fallback'),
}


@pytest.mark.parametrize('kind', KINDS)
def test_the_bytes_of_tokens_are_those_of_the_text(kind, tmp_path):
    vocabulary = ExtendedVocabulary(KINDS[kind](tmp_path), 8)
    for text in TEXTS:
        if kind == 'byte fallback':
            text = text.replace('▁', '')  # which is a space there
        ids = vocabulary.encode(text)
        content = [vocabulary.token_bytes(i) for i in ids]
        assert b''.join(content) == text.encode() == vocabulary.decode(ids).encode(), (kind, text)
        positions = tokens.Positions(vocabulary)
        for number, i in enumerate(ids):
            complete = b''.join(content[:number]).decode(errors='ignore')
            assert positions.add(i) == len(complete), (kind, text, number)
    assert vocabulary.token_bytes(0) is None and vocabulary.token_bytes(1) is None
    assert vocabulary.token_bytes(vocabulary.size - 1) == b'<extra_id_0>'
    assert vocabulary.token_bytes(vocabulary.size + 5) is None


@pytest.mark.parametrize('kind', KINDS)
def test_tokens_keep_apart_by_name(kind, tmp_path):
    vocabulary = ExtendedVocabulary(KINDS[kind](tmp_path), 0)
    pairs = [(i, -float(i)) for i in range(vocabulary.size)]
    named = tokens.names_and_logprobs(vocabulary, pairs)
    assert len(named) == vocabulary.size and list(named.values()) == [p for _, p in pairs]
    name = tokens.name(vocabulary, vocabulary.encode('ä')[0])
    assert name in ('bytes:\\xc3', 'ä') and 'token_id:1' in named


def test_log_probabilities_are_numbers_of_json():
    assert [tokens.logprob(x) for x in (-1.5, -float('inf'), float('nan'), 0.0)] == [-1.5, -9999.0, -9999.0, 0.0]


def test_byte_tokens_of_an_answer(served):
    """Random parameters write all kinds of bytes: halves of characters, too."""
    ask = {'model': 'base', 'prompt': ['naïve 中', 'a'], 'max_tokens': 24, 'temperature': 1.3, 'seed': 3, 'n': 2}
    with running(served) as site:
        for num_top in (0, 3, 20):
            whole = http.post(f'{site.url}/v1/completions', json=ask | {'logprobs': num_top}, timeout=60).json()
            streamed = pieces(site, '/v1/completions', ask | {'logprobs': num_top})
            for choice in whole['choices']:
                told = choice['logprobs']
                parts = [c['logprobs'] for e in streamed for c in e['choices'] if c['index'] == choice['index']]
                for field in ('tokens', 'text_offset'):
                    assert [item for part in parts for item in part[field]] == told[field], field
                assert told['text_offset'] == sorted(told['text_offset']) and told['text_offset'][0] == 0
                assert told['text_offset'][-1] <= len(choice['text'])
                if num_top:
                    assert all(len(top) == num_top for top in told['top_logprobs'])
                    assert parts[0]['top_logprobs'][0].keys() == told['top_logprobs'][0].keys()
                else:
                    assert told['top_logprobs'] is None
        chat = {'model': 'base', 'messages': [{'role': 'user', 'content': 'ä'}], 'max_tokens': 24, 'logprobs': True,
                'top_logprobs': 4, 'temperature': 1.3, 'seed': 3}  # fmt: skip
        (choice,) = http.post(f'{site.url}/v1/chat/completions', json=chat, timeout=60).json()['choices']
        content = choice['logprobs']['content']
        assert all(len(token['top_logprobs']) == 4 and len(token['bytes']) == 1 for token in content)
        written = bytes(byte for token in content for byte in token['bytes']).decode(errors='replace')
        assert written.lstrip() == choice['message']['content'] and '\ufffd' in written
        events = pieces(site, '/v1/chat/completions', chat)
        assert [c['delta'].get('role') for e in events for c in e['choices']].count('assistant') == 1
        assert [t['token'] for e in events for c in e['choices'] for t in c['logprobs']['content']] == [
            token['token'] for token in content
        ]


def pieces(site, path, body):
    with http.stream('POST', f'{site.url}{path}', json=body | {'stream': True}, timeout=60) as answer:
        lines = [line.removeprefix('data: ') for line in answer.iter_lines() if line]
    assert lines.pop() == '[DONE]'
    return [json.loads(line) for line in lines]
