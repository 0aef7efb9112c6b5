"""Vocabularies: lossless round trips, PaLM's settings, errors."""

import pytest

from palm_jax.data.registry import stdlib
from palm_jax.data.vocabulary import fitting, vocabularies
from palm_jax.errors import UserError

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


@pytest.fixture(scope='module')
def sentencepiece(tmp_path_factory):
    texts = (example['text'] for example in stdlib.examples('train'))
    return fitting.fit(texts, 1000, tmp_path_factory.mktemp('vocabulary') / 'v.model', max_bytes=400_000)


@pytest.mark.parametrize('text', HARD, ids=lambda t: repr(t[:20]))
def test_the_round_trip_is_lossless(sentencepiece, text):
    for vocabulary in (sentencepiece, vocabularies.Bytes()):
        ids = vocabulary.encode(text)
        assert vocabulary.decode(ids) == text
        assert all(3 <= i < vocabulary.size or i == 2 for i in ids)


def test_the_round_trip_on_files_it_has_not_seen(sentencepiece):
    for example in stdlib.examples('validation'):
        assert sentencepiece.decode(sentencepiece.encode(example['text'])) == example['text'], example['name']


def test_palms_settings(sentencepiece):
    assert sentencepiece.size == 1000
    assert len(sentencepiece.encode('2024')) == 4  # digits split
    assert len(sentencepiece.encode('☃')) == 3  # a character it has never seen falls back to its bytes
    assert len(sentencepiece.encode('\n        return')) <= 4  # runs of white space are pieces
    assert 2 not in sentencepiece.encode('☃ snow')


def test_the_fingerprint_names_the_mapping(sentencepiece, tmp_path):
    other = fitting.fit(['def f(x): return x * 2\n' * 200], 280, tmp_path / 'o.model')
    assert other.fingerprint != sentencepiece.fingerprint
    assert vocabularies.SentencePiece(sentencepiece.path).fingerprint == sentencepiece.fingerprint


def test_too_little_text_and_no_model_are_said(tmp_path):
    with pytest.raises(UserError, match='VOCABULARY_SIZE'):
        fitting.fit(['three words here'], 5000, tmp_path / 'v.model')
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match='palm-jax vocabulary'):
        _ = vocabularies.SentencePiece(str(tmp_path / 'none.model')).size
    (tmp_path / 'bad.model').write_text('no model')
    with pytest.raises(UserError, match='not a SentencePiece model'):
        _ = vocabularies.SentencePiece(str(tmp_path / 'bad.model')).size
