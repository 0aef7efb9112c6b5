"""Metrics of generated texts: BLEU, chrF, ROUGE, F1 and exact match of SQuAD, and the final number.

A metric takes texts [E] and references [E][≥ 1], and returns functions by name; each of them maps indices of examples
to a value from 0 to 100, so that intervals can be bootstrapped.
"""

from __future__ import annotations

import collections
import decimal
import functools
import re
import string
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import sacrebleu
from rouge_score import rouge_scorer

from palm_jax.metrics.statistics import precision_recall_f1

OfRows: TypeAlias = Callable[[np.ndarray], float]
Texts: TypeAlias = Sequence[str]
References: TypeAlias = Sequence[Sequence[str]]
_CJK = '[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]'  # written without spaces: every character is a word
_CJK_PUNCTUATION = '\u3001\u3002\uff0c\uff1b\uff1a\uff1f\uff01\u201c\u201d\u2018\u2019\uff08\uff09\u300a\u300b'
# Digits, perhaps with separators of thousands and decimals; a minus counts unless it is a hyphen or a difference.
_NUMBER = r'(?:(?<![\w.,)])-)?[$€£¥]?(?:\d+(?:[,，]\d+)*(?:\.\d+)?|(?<!\w)\.\d+)(?:[eE][-+]?\d+(?!\w))?'
_PUNCTUATION = set(string.punctuation) | set(_CJK_PUNCTUATION)


def bleu(texts: Texts, references: References, tokenizer: str = '13a') -> dict[str, OfRows]:
    """Return sacrebleu's corpus BLEU with one of its tokenizers: `13a`, `zh`, `char`, ..."""
    return {'bleu': _corpus(sacrebleu.BLEU(tokenize=tokenizer), texts, references)}


def chrf(texts: Texts, references: References) -> dict[str, OfRows]:
    """Return sacrebleu's corpus chrF."""
    return {'chrf': _corpus(sacrebleu.CHRF(), texts, references)}


def rouge(texts: Texts, references: References) -> dict[str, OfRows]:
    """Return mean F1 of ROUGE-1, -2 and -L with each text's best reference. A Chinese character is a word."""
    names = ('rougeL', 'rouge1', 'rouge2')
    scorer = rouge_scorer.RougeScorer(names, tokenizer=Words())
    scores = [scorer.score_multi(list(correct), text) for text, correct in zip(texts, references, strict=True)]
    return {name: _mean([score[name].fmeasure for score in scores]) for name in names}


def squad(texts: Texts, references: References) -> dict[str, OfRows]:
    """Return F1 of words and exact match with each text's best reference (Rajpurkar et al., arXiv 1606.05250).

    Case, punctuation and English articles are ignored. A Chinese character is a word.
    """
    pairs = list(zip(texts, references, strict=True))
    return {
        'f1': _mean([max(answer_f1(text, r) for r in correct) for text, correct in pairs]),
        'exact_match': _mean([max(answer_words(text) == answer_words(r) for r in correct) for text, correct in pairs]),
    }


def final_number(texts: Texts, references: References) -> dict[str, OfRows]:
    """Return the share of texts whose final number equals that of a reference, as for GSM8K (arXiv 2110.14168).

    The final number is the first one after the last `####` or, without this mark, the last number. Thousands
    separators, currency signs and trailing zeros do not count: `$1,234.50` is `1234.5`.
    """
    expected = [{number_of(reference) for reference in correct} - {None} for correct in references]
    return {'final_number': _mean([number_of(text) in numbers for text, numbers in zip(texts, expected, strict=True)])}


def number_of(text: str) -> decimal.Decimal | None:
    """Return the final number of a text, or None if it has none; see `final_number`."""
    _, mark, answer = text.rpartition('####')
    numbers = re.findall(_NUMBER, answer.replace('\u2212', '-'))
    if not numbers:
        return None
    return decimal.Decimal(re.sub('[,，$€£¥]', '', numbers[0 if mark else -1]))


class Words:
    """Lower-cased words, and single Chinese or Japanese characters: a tokenizer for `rouge_score`."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        return re.findall(rf'{_CJK}|(?:(?!{_CJK})\w)+', text.lower())


def answer_words(text: str) -> list[str]:
    """Return the words of a text as SQuAD compares them."""
    text = ''.join(c for c in text.lower() if c not in _PUNCTUATION)
    return re.sub(f'({_CJK})', r' \1 ', re.sub(r'\b(a|an|the)\b', ' ', text)).split()


def answer_f1(text: str, reference: str) -> float:
    """Return F1 of the words of two answers; of answers without words, 1 if both have none."""
    ours, theirs = collections.Counter(answer_words(text)), collections.Counter(answer_words(reference))
    if not ours or not theirs:
        return float(ours == theirs)
    return precision_recall_f1((ours & theirs).total(), ours.total(), theirs.total())[2]


def _mean(values: Sequence[float]) -> OfRows:
    array = 100 * np.array(values, float)
    return lambda rows: float(array[rows].mean())


def _corpus(metric: sacrebleu.metrics.base.Metric, texts: Texts, references: References) -> OfRows:
    """Return a corpus metric; sacrebleu takes a list per n-th reference, with None where a text has fewer."""
    most = max(map(len, references))
    columns = [[correct[i] if i < len(correct) else None for correct in references] for i in range(most)]

    def of_rows(rows: np.ndarray) -> float:
        return metric.corpus_score([texts[i] for i in rows], [[column[i] for i in rows] for column in columns]).score

    return of_rows


METRICS: dict[str, Callable[..., dict[str, OfRows]]] = {
    'bleu': bleu,
    'chrf': chrf,
    'rouge': rouge,
    'squad': squad,
    'final_number': final_number,
}


def compute(names: Sequence[str], texts: Texts, references: References, tokenizer: str) -> dict[str, OfRows]:
    """Return the metrics of these names of `METRICS`, in their order; for the tokenizer see `bleu`."""
    functions: dict[str, Callable[..., dict[str, OfRows]]] = dict(
        METRICS, bleu=functools.partial(bleu, tokenizer=tokenizer)
    )
    return {key: of_rows for name in names for key, of_rows in functions[name](texts, references).items()}
