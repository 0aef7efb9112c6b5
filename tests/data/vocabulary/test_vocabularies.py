"""Vocabularies: lossless round trips, PaLM's settings, errors."""

import json

import numpy as np
import pytest
import sentencepiece

from palm_jax.data.pretraining.corpus import Corpus
from palm_jax.data.registry import stdlib
from palm_jax.data.vocabulary import checks, fitting, vocabularies
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory

HARD = [
    '',
    ' ',
    '\n',
    '  leading and trailing  ',
    'a▁b▁▁c',
    '▁',
    '\t\r\n\x0b\x0c',
    '\x00 and \x01',
    '\ufeffBOM',
    'e\u0301 is not \u00e9, ﬁ is not fi',
    '中文，日本語、한국어 עברית',
    '😀👩‍👩‍👧‍👦🇨🇭',
    '1234567890 3.14159',
    '</s><s><pad><unk><0x41>',
    'x' * 5000,
    ' ' * 3000,
]


@pytest.fixture(scope='module', name='fitted')
def fit(tmp_path_factory):
    texts = (example['text'] for example in stdlib.examples('train'))
    return fitting.fit(texts, 1000, tmp_path_factory.mktemp('vocabulary') / 'v.model', max_bytes=400_000)


@pytest.mark.parametrize('text', HARD, ids=lambda t: repr(t[:20]))
def test_the_round_trip_is_lossless(fitted, text):
    for vocabulary in (fitted, vocabularies.Bytes()):
        ids = vocabulary.encode(text)
        assert vocabulary.decode(ids) == text
        assert all(3 <= i < vocabulary.size or i == 2 for i in ids)


def test_the_round_trip_on_files_it_has_not_seen(fitted):
    for example in stdlib.examples('validation'):
        assert fitted.decode(fitted.encode(example['text'])) == example['text'], example['name']


def test_palms_settings(fitted):
    assert fitted.size == 1000
    assert len(fitted.encode('2024')) == 4  # digits split
    assert len(fitted.encode('☃')) == 3  # a character it has never seen falls back to its bytes
    assert len(fitted.encode('\n        return')) <= 4  # runs of white space are pieces
    assert 2 not in fitted.encode('☃ snow')


def test_the_fingerprint_names_the_mapping(fitted, tmp_path):
    other = fitting.fit(['def f(x): return x * 2\n' * 200], 280, tmp_path / 'o.model')
    assert other.fingerprint != fitted.fingerprint
    assert vocabularies.SentencePiece(fitted.path).fingerprint == fitted.fingerprint


def test_too_little_text_and_no_model_are_said(tmp_path):
    with pytest.raises(UserError, match='VOCABULARY_SIZE'):
        fitting.fit(['three words here'], 5000, tmp_path / 'v.model')
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match='palm-jax vocabulary'):
        _ = vocabularies.SentencePiece(str(tmp_path / 'none.model')).size
    (tmp_path / 'bad.model').write_text('no model')
    with pytest.raises(UserError, match='not a SentencePiece model'):
        _ = vocabularies.SentencePiece(str(tmp_path / 'bad.model')).size


def test_ids_beyond_the_vocabulary_have_no_text(fitted):
    """A model's table may have more rows, for special tokens or to be divisible."""
    for vocabulary in (fitted, vocabularies.Bytes()):
        ids = vocabulary.encode('def f')
        assert vocabulary.decode([0, *ids, vocabulary.size, vocabulary.size + 5000, 1]) == 'def f'
        assert len(vocabulary.has_text) == vocabulary.size and not vocabulary.has_text[:3].any()
        assert vocabulary.has_text[3:].all()
    extended = ExtendedVocabulary(fitted, 10)
    assert extended.has_text.tolist() == [False] * 3 + [True] * (extended.size - 3)


def byte_level(folder):
    """A tokenizer of bytes like GPT-2's, with special tokens."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=['<s>', '</s>'], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(['the text of a tokenizer of bytes'] * 9, trainer)
    tokenizer.save(str(folder / 'tokenizer.json'))
    (folder / 'tokenizer_config.json').write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    return vocabularies.HuggingFace(str(folder / 'tokenizer.json'))


@pytest.mark.parametrize('text', HARD, ids=lambda t: repr(t[:20]))
def test_the_bytes_of_tokens_are_those_of_the_text(fitted, text, tmp_path):
    extended = ExtendedVocabulary(fitted, 10)
    for vocabulary in (fitted, vocabularies.Bytes(), extended, byte_level(tmp_path)):
        if '<s>' in text and isinstance(vocabulary, vocabularies.HuggingFace):
            continue  # which takes it for its special token
        assert b''.join(map(vocabulary.token_bytes, vocabulary.encode(text))) == text.encode()
        assert {vocabulary.token_bytes(i) for i in (0, 1, 10**6)} == {None}
    assert extended.token_bytes(extended.size - 1) == b'<extra_id_0>'


def test_decoding_does_not_count_the_vocabulary_again(tmp_path):
    """A vocabulary of 49,152 took 30 ms to count, and `decode` did so for every token."""
    vocabulary = byte_level(tmp_path)
    ids = vocabulary.encode('the text')
    tokenizer, counted = vocabulary._tokenizer, []

    class Counting:
        def get_vocab(self, **options):
            counted.append(options)
            return tokenizer.get_vocab(**options)

        def __getattr__(self, name):
            return getattr(tokenizer, name)

    vars(vocabulary)['_tokenizer'] = Counting()
    extended = ExtendedVocabulary(vocabulary, 10)
    assert [extended.decode(ids) for _ in range(3)] == ['the text'] * 3 and extended.size == vocabulary.size + 10
    assert len(counted) <= 1


def test_a_tokenizer_with_holes_has_the_size_of_its_highest_id(tmp_path):
    added = [{'id': i, 'content': c, 'special': True} | dict.fromkeys(FLAGS, False) for c, i in HOLES]
    model = {'type': 'WordLevel', 'vocab': {'[UNK]': 0, 'a': 1, 'b': 9}, 'unk_token': '[UNK]'}
    content = {'version': '1.0', 'added_tokens': added, 'pre_tokenizer': {'type': 'WhitespaceSplit'}, 'model': model}
    file = tmp_path / 'tokenizer.json'
    file.write_text(json.dumps(content | dict.fromkeys(('truncation', 'padding', 'normalizer', 'decoder'))))
    (tmp_path / 'tokenizer_config.json').write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    vocabulary = vocabularies.load_vocabulary(str(file))
    assert vocabulary.size == 12
    assert vocabulary.original_ids.tolist() == [10, 11, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert vocabulary.encode('a b c') == [11, 9, 10] and vocabulary.unknown_id == 10
    assert vocabulary.decode([0, 11, 9, 5, 1]) == 'a b'
    assert np.flatnonzero(vocabulary.has_text).tolist() == [9, 11]
    vocabulary.save(tmp_path / 'run')
    kept = vocabularies.load_vocabulary(str(tmp_path / 'run' / 'vocabulary.json'))
    assert kept.encode('b a') == [9, 11] and kept.fingerprint == vocabulary.fingerprint


HOLES = (('<s>', 10), ('</s>', 11))
FLAGS = ('single_word', 'lstrip', 'rstrip', 'normalized')


def trained(folder, name, **options):
    """A SentencePiece model of a user, trained on English."""
    file = folder / 'english.txt'
    file.write_text('\n'.join(f'the square of {i} is {i * i}, said Ann.' for i in range(2000)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(file),
        model_prefix=str(folder / name),
        vocab_size=300,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    return vocabularies.SentencePiece(str(folder / f'{name}.model'))


LOSSY = 'für Ann\n  日本 and more\n'


def test_ids_of_ones_own_model_are_checked_and_the_advice_works(tmp_path):
    with pytest.raises(UserError, match=r"default\.model: the piece with the id 0 is '<unk>'.*spm_train --") as caught:
        checks.check_ids(trained(tmp_path, 'default'))
    flags = str(caught.value).partition('spm_train ')[2]
    assert '--byte_fallback=true' in flags
    sentencepiece.SentencePieceTrainer.train(
        f'--input={tmp_path}/english.txt --model_prefix={tmp_path}/again --vocab_size=320 --minloglevel=2 {flags}'
    )
    again = vocabularies.SentencePiece(f'{tmp_path}/again.model')
    checks.check_ids(again)
    assert again.decode(again.encode(LOSSY)) == LOSSY


def test_what_a_vocabulary_loses_is_told(fitted, tmp_path, caplog):
    good_ids = {'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1}
    lossy = trained(tmp_path, 'lossy', **good_ids)
    checks.check_ids(lossy)
    checks.warn_about_losses(lossy, 'lossy.model', [LOSSY] * 10)
    (message,) = caplog.messages
    assert 'lossy.model loses text: of a sample of 20 lines, 100.0% are others' in message
    for character in ("'ü'", "'日'", "'\\n'"):
        assert character in message
    assert '--byte_fallback=true' in message
    unknown = float(message.partition('decoding, and ')[2].partition('%')[0])
    ids = lossy.encode('für Ann\n') + lossy.encode('  日本 and more\n')
    assert unknown == pytest.approx(100 * ids.count(2) / len(ids), abs=0.01) and unknown > 0
    caplog.clear()
    checks.warn_about_losses(fitted, 'good.model', [LOSSY, *HARD])
    checks.warn_about_losses(byte_level(tmp_path), 'tokenizer.json', [LOSSY])
    assert not caplog.messages


def test_a_run_refuses_a_model_with_wrong_ids_before_it_begins(tmp_path):
    trained(tmp_path, 'default')
    corpus = Corpus('unused', str(tmp_path / 'default.model'), 300, train_files=str(tmp_path / 'english.txt'))
    with pytest.raises(UserError, match="the piece with the id 0 is '<unk>'"):
        corpus.prepare(RunDirectory(tmp_path / 'run'))
    assert not (tmp_path / 'run').exists()
