"""Measures of written text against what was expected: BLEU, chrF, ROUGE, SQuAD's.

A measure takes texts [E] and the right ones [E][≥ 1], and gives functions by name: of the rows
of a part of the examples, what the measure is on them, 0 to 100.
"""

from __future__ import annotations

import collections
import functools
import re
import string
from collections.abc import Callable, Sequence

import numpy as np
import sacrebleu
from rouge_score import rouge_scorer

from palm_jax.metrics.statistics import precision_recall_f1

OfRows = Callable[[np.ndarray], float]
Texts, References = Sequence[str], Sequence[Sequence[str]]
_CJK = '[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]'  # written without blanks: every character is a word
_CJK_PUNCTUATION = '\u3001\u3002\uff0c\uff1b\uff1a\uff1f\uff01\u201c\u201d\u2018\u2019\uff08\uff09\u300a\u300b'
_PUNCTUATION = set(string.punctuation) | set(_CJK_PUNCTUATION)


def bleu(texts: Texts, references: References, tokenizer: str = '13a') -> dict[str, OfRows]:
    """sacrebleu's corpus BLEU; the tokenizer is one of sacrebleu's: `13a`, `zh`, `char`, ..."""
    return {'bleu': _corpus(sacrebleu.BLEU(tokenize=tokenizer), texts, references)}


def chrf(texts: Texts, references: References) -> dict[str, OfRows]:
    """sacrebleu's corpus chrF."""
    return {'chrf': _corpus(sacrebleu.CHRF(), texts, references)}


def rouge(texts: Texts, references: References) -> dict[str, OfRows]:
    """F1 of ROUGE-1, -2 and -L with each text's best reference, means over texts. A Chinese character is a word."""
    names = ('rougeL', 'rouge1', 'rouge2')
    scorer = rouge_scorer.RougeScorer(names, tokenizer=Words())
    scores = [scorer.score_multi(list(right), text) for text, right in zip(texts, references, strict=True)]
    return {name: _mean([score[name].fmeasure for score in scores]) for name in names}


def squad(texts: Texts, references: References) -> dict[str, OfRows]:
    """F1 of words and exact match with each text's best reference (Rajpurkar et al., arXiv 1606.05250).

    Lower case, without punctuation and English articles. A Chinese character is a word.
    """
    pairs = list(zip(texts, references, strict=True))
    return {
        'f1': _mean([max(answer_f1(text, r) for r in right) for text, right in pairs]),
        'exact_match': _mean([max(answer_words(text) == answer_words(r) for r in right) for text, right in pairs]),
    }


class Words:
    """Lower-cased words, and single Chinese or Japanese characters: a tokenizer for `rouge_score`."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        return re.findall(rf'{_CJK}|(?:(?!{_CJK})\w)+', text.lower())


def answer_words(text: str) -> list[str]:
    """A text's words as SQuAD compares them."""
    text = ''.join(c for c in text.lower() if c not in _PUNCTUATION)
    return re.sub(f'({_CJK})', r' \1 ', re.sub(r'\b(a|an|the)\b', ' ', text)).split()


def answer_f1(text: str, reference: str) -> float:
    """F1 of the words that two answers share; of answers without words, whether both have none."""
    ours, theirs = collections.Counter(answer_words(text)), collections.Counter(answer_words(reference))
    if not ours or not theirs:
        return float(ours == theirs)
    return precision_recall_f1((ours & theirs).total(), ours.total(), theirs.total())[2]


def _mean(values: Sequence[float]) -> OfRows:
    array = 100 * np.array(values, float)
    return lambda rows: float(array[rows].mean())


def _corpus(metric, texts: Texts, references: References) -> OfRows:
    """sacrebleu wants a list for every first, second, ... reference, None where a text has fewer."""
    most = max(map(len, references))
    columns = [[right[i] if i < len(right) else None for right in references] for i in range(most)]

    def of_rows(rows: np.ndarray) -> float:
        return metric.corpus_score([texts[i] for i in rows], [[column[i] for i in rows] for column in columns]).score

    return of_rows


MEASURES: dict[str, Callable[..., dict[str, OfRows]]] = {'bleu': bleu, 'chrf': chrf, 'rouge': rouge, 'squad': squad}


def measure(names: Sequence[str], texts: Texts, references: References, tokenizer: str) -> dict[str, OfRows]:
    """All measures of some names of `METRICS`, in their order."""
    functions = {**MEASURES, 'bleu': functools.partial(bleu, tokenizer=tokenizer)}
    return {name: of_rows for wanted in names for name, of_rows in functions[wanted](texts, references).items()}
