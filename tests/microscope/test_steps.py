"""The tokens of a step as they are shown."""

import io

import pytest
import sentencepiece

from palm_jax.data.vocabulary.vocabularies import Bytes, SentencePiece
from palm_jax.microscope.steps import texts_of
from palm_jax.special_ids import EOS_ID

TEXT = '¿Dónde está? 银行卡丢了 🙂'


def test_a_character_of_several_tokens_is_shown_whole():
    ids = Bytes().encode(TEXT)
    texts = texts_of([*ids, EOS_ID], Bytes())
    assert ''.join(texts[: len(ids)]) == TEXT and len(texts) == len(ids) + 1
    assert texts[0] == '' and texts[1] == '¿' and texts[2] == 'D'
    assert texts_of([], Bytes()) == ()


@pytest.mark.parametrize('rest', [(), (EOS_ID,)])
def test_a_row_that_is_cut_inside_a_character_says_so(rest):
    ids = Bytes().encode('a银')[:-1]
    assert ''.join(texts_of([*ids, *rest], Bytes())).startswith('a\ufffd')


def test_blanks_between_words_are_kept(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(['the square of three is nine'] * 20), model_writer=model, vocab_size=290,
        hard_vocab_limit=False, byte_fallback=True, minloglevel=2, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    (tmp_path / 'v.model').write_bytes(model.getvalue())
    vocabulary = SentencePiece(str(tmp_path / 'v.model'))
    text = 'the square of 银 three'
    assert ''.join(texts_of(vocabulary.encode(text), vocabulary)).strip() == text
