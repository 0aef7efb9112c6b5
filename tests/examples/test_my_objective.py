"""examples/my_objective: what it hides and counts, and a whole run of its gin file."""

import json

import numpy as np
import pytest

from examples.my_objective.my_objective import FillInTheMiddle
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import Bytes
from palm_jax.errors import UserError
from tests.support.examples import MICRO, run

VOCABULARY = ExtendedVocabulary(Bytes(), extra_ids=16)


def test_the_middle_moves_to_the_end_and_is_counted():
    objective, raw = FillInTheMiddle(), np.arange(3, 63, dtype=np.int32)
    assert objective.raw_length(64, VOCABULARY) == 61
    for seed in range(50):
        features = objective(raw, 64, VOCABULARY, np.random.default_rng(seed), lambda: raw)
        targets, weights = features['decoder_target_tokens'], features['decoder_loss_weights']
        np.testing.assert_array_equal(features['decoder_input_tokens'][1:64], np.where(targets[1:], targets[:-1], 0))
        pre, suf, mid = (int(np.flatnonzero(targets == VOCABULARY.sentinel(i))[0]) for i in range(3))
        end = len(raw) + 3
        prefix, suffix, middle = targets[pre + 1 : suf], targets[suf + 1 : mid], targets[mid + 1 : end]
        np.testing.assert_array_equal(np.r_[prefix, middle, suffix], raw)
        assert len(middle) and weights.tolist() == [0] * (mid + 1) + [1] * len(middle) + [0] * (64 - end)


def test_a_vocabulary_without_sentinels_is_refused():
    with pytest.raises(UserError, match='EXTRA_IDS'):
        FillInTheMiddle().raw_length(64, ExtendedVocabulary(Bytes(), extra_ids=0))


def test_the_gin_file_trains(text, tmp_path):
    bindings = (*MICRO, f'TRAIN_FILES={text}', 'TRAIN_STEPS=2')
    run('examples/my_objective/my_objective.gin', tmp_path, *bindings)
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert len(summary['examples']) == 3 and summary['loss'] > 0
