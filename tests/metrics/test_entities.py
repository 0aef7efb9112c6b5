"""Entities compared with seqeval 1.2.2, whose results on random tags are in goldens/seqeval.json.

(seqeval itself does not install into a fresh environment: its setup asks for eggs that no longer build.)
"""

import json
from pathlib import Path

import numpy as np
import pytest

from palm_jax.data.readers.conll import Sentence
from palm_jax.metrics import statistics
from palm_jax.metrics.entities import Entity, decode
from palm_jax.reports import tags

CASES = json.loads((Path(__file__).parents[1] / 'goldens' / 'seqeval.json').read_text())['cases']


@pytest.mark.parametrize('case', CASES, ids=['BIO', 'with E and S'])
def test_entities_and_their_f1_are_seqevals(case):
    for sentence, expected in zip(case['true'], case['entities'], strict=True):
        assert decode(sentence) == [Entity(kind, first, last + 1) for kind, first, last in expected]
    sentences = [Sentence(tuple('w' * len(s)), tuple(s), 'here') for s in case['true']]
    result = tags.measurements(0.5, sentences, case['predicted']).metrics
    for ours, theirs in (('entity_precision', 'precision'), ('entity_recall', 'recall'), ('entity_f1', 'f1')):
        np.testing.assert_allclose(result[ours], case[theirs])


def test_a_report_counts_types_and_names_the_worst_sentence():
    sentences = [
        Sentence(('Ann', 'met', 'Bo'), ('B-PER', 'O', 'B-PER'), 'here'),
        Sentence(('Rome', 'burns'), ('B-LOC', 'O'), 'there'),
    ]
    report = tags.measurements(0.5, sentences, [['B-PER', 'O', 'O'], ['B-PER', 'I-PER']])
    assert report.tables['Entities'][1:] == [
        ('LOC', '0.000', '0.000', '0.000', '1'),
        ('PER', '0.500', '0.500', '0.500', '2'),
    ]
    assert report.tables['The worst errors'][1] == ('Rome burns', 'LOC: Rome', 'PER: Rome burns')
    joined = tags.measurements(0.5, sentences, [['O'] * 3, ['B-LOC', 'I-LOC']], '')
    assert [row['text'] for row in joined.predictions] == ['AnnmetBo', 'Romeburns']
    assert joined.predictions[1]['predicted'] == ['LOC: Romeburns']
    np.testing.assert_allclose(report.metrics['tag_accuracy'], 2 / 5)
    low, high = report.intervals['entity_f1']
    assert low <= report.metrics['entity_f1'] <= high


def test_nothing_found_and_nothing_sought_is_no_division():
    assert statistics.precision_recall_f1(0, 0, 0) == (0.0, 0.0, 0.0)
