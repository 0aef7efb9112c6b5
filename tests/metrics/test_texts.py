"""Metrics of generated text: the numbers of sacrebleu and rouge_score, SQuAD's by hand."""

from decimal import Decimal

import numpy as np
import pytest
import sacrebleu
from rouge_score import rouge_scorer

from palm_jax.errors import UserError
from palm_jax.metrics.texts import Words, answer_f1, answer_words, compute, number_of
from palm_jax.reports.generation import GenerationReporter

TEXTS = ['the cat sat on the mat', 'a dog barks loudly', 'nothing']
REFERENCES = [['the cat sat on a mat', 'a cat is on the mat'], ['the dog barks'], ['something else']]


def test_bleu_and_chrf_are_sacrebleus_also_with_ragged_references():
    ours = compute(['bleu', 'chrf'], TEXTS, REFERENCES, '13a')
    columns = [[r[0] for r in REFERENCES], [REFERENCES[0][1], None, None]]
    np.testing.assert_allclose(ours['bleu'](np.arange(3)), sacrebleu.corpus_bleu(TEXTS, columns).score)
    np.testing.assert_allclose(ours['chrf'](np.arange(3)), sacrebleu.corpus_chrf(TEXTS, columns).score)
    part = sacrebleu.corpus_chrf([TEXTS[1], TEXTS[1]], [[REFERENCES[1][0]] * 2]).score
    np.testing.assert_allclose(ours['chrf'](np.array([1, 1])), part)


def test_rouge_is_rouge_scores_on_english():
    ours = compute(['rouge'], TEXTS, REFERENCES, '13a')
    scorer = rouge_scorer.RougeScorer(['rouge1', 'rouge2', 'rougeL'])
    theirs = [scorer.score_multi(r, t) for t, r in zip(TEXTS, REFERENCES, strict=True)]
    for name in ('rouge1', 'rouge2', 'rougeL'):
        np.testing.assert_allclose(ours[name](np.arange(3)), 100 * np.mean([s[name].fmeasure for s in theirs]))
    assert Words().tokenize('Das Ü-Ei, 3 Stück 电影abc') == ['das', 'ü', 'ei', '3', 'stück', '电', '影', 'abc']


@pytest.mark.parametrize(
    ('text', 'reference', 'f1'),
    [
        ('The Denver Broncos!', 'denver broncos', 1.0),
        ('Denver', 'the Denver Broncos', 2 / 3),
        ('Panthers', 'Broncos', 0.0),
        ('the', 'an', 1.0),
        ('丹佛野马', '丹佛。', 2 * 0.5 / 1.5),
    ],
)
def test_answers_as_squad_compares_them(text, reference, f1):
    np.testing.assert_allclose(answer_f1(text, reference), f1)


def test_the_best_reference_counts():
    ours = compute(['squad'], ['the mat'], [['a cat', 'mat']], '13a')
    assert ours['f1'](np.arange(1)) == ours['exact_match'](np.arange(1)) == 100
    assert answer_words("It's A Test.") == ['its', 'test']


def test_an_unknown_measure_names_the_nearest():
    with pytest.raises(UserError, match=r"'blue' is unknown.*mean bleu"):
        GenerationReporter(metrics=['blue'])


@pytest.mark.parametrize(
    ('text', 'number'),
    [
        ('4 + 5 = 9\n#### 1,234', '1234'),
        ('#### $1,234.50 dollars for 7 days', '1234.5'),
        ('#### -3', '-3'),
        ('She pays $10.', '10'),
        ('so 12 - 5 = 7 apples in 3-2=1 days.', '1'),
        ('The answer is -$0.50!', '-0.5'),
        ('about .5', '0.5'),
        ('see No.5', '5'),
        ('20%', '20'),
        ('一共是１２个', '12'),
        ('#### 1.5e3 or 7', '1500'),
        ('2e and 3e5x', '5'),
        ('\u22124', '-4'),
        ('none', None),
        ('12 apples #### many', None),
        ('', None),
    ],
)
def test_the_final_number_of_a_text(text, number):
    assert number_of(text) == (None if number is None else Decimal(number))


def test_final_numbers_are_compared_as_numbers():
    measure = compute(
        ['final_number'],
        ['#### 1234', 'it is 1,234.00', 'perhaps 5', 'none', 'two'],
        [['9 * 2 = 18\n#### 1,234'], ['#### 1234'], ['#### 6', '#### 5'], ['#### 7'], ['two']],
        '13a',
    )['final_number']
    assert measure(np.arange(5)) == 60.0 and measure(np.array([3])) == 0.0
