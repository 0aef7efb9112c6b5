"""Scores of examples against their definitions."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest

from palm_jax.data.supervised.labelled_example import Example
from palm_jax.data.supervised.labelled_text import LabelledTable
from palm_jax.errors import UserError
from palm_jax.microscope import ranked_examples
from palm_jax.microscope.ranking import disagreement, likely_wrong, near_duplicates
from palm_jax.microscope.token_losses import example_losses, token_losses
from palm_jax.training.losses import LanguageModelLoss
from tests.support.kinds import every_kind
from tests.support.models import applied


def test_near_duplicates_are_found_within_a_set():
    texts = [
        'the card was lost on Monday',
        'a film about cats',
        'the card was lost on  Monday!',
        'a film about dogs',
        'x',
    ]
    pairs = near_duplicates(texts, 0.8)
    assert [(p.first, p.second) for p in pairs] == [(0, 2)] and pairs[0].similarity > 0.9
    assert near_duplicates(['a'], 0.8) == [] and near_duplicates(['same text', 'same text'], 1 - 1e-6)


def test_likely_wrong_labels_by_hand():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.05, 0.95], [0.45, 0.55]])
    labels = np.array([0, 0, 1, 1, 0, 0])  # the fifth is wrong; the sixth is not confident
    # Mean probability of each class where it is the label: 0.55 and 0.85.
    assert likely_wrong(p, labels) == [4]
    assert likely_wrong(p[:4], labels[:4]) == []


def test_disagreement_is_the_share_of_pairs():
    found = disagreement([['a', 'b', 'c'], ['a', 'b', 'd'], ['a', 'x', 'e']])
    np.testing.assert_allclose(found, [0, 2 / 3, 1])


def test_losses_of_tokens_and_examples(micro, batch):
    model, params = micro()
    losses_BL = np.asarray(token_losses(model, params, batch))
    logits = np.asarray(applied(model, params, batch['decoder_input_tokens']), np.float64)
    log_z = np.log(np.exp(logits).sum(axis=-1))
    chosen = np.take_along_axis(logits, batch['decoder_target_tokens'][..., None], axis=2)[..., 0]
    np.testing.assert_allclose(losses_BL, log_z - chosen, atol=1e-4)
    loss = LanguageModelLoss(z_loss=0.0)
    weights = batch['decoder_loss_weights']
    expected = (losses_BL * weights).sum(axis=1) / weights.sum(axis=1)
    means, norms = example_losses(loss, model, True, params, {}, batch)
    np.testing.assert_allclose(means, expected, rtol=1e-4)
    alone = {name: values[:1] for name, values in batch.items()}
    gradient = jax.jit(jax.grad(lambda p: loss(model, p, alone)[0] / weights[0].sum()))(params)
    norm = np.sqrt(sum(float((np.asarray(g, np.float64) ** 2).sum()) for g in jax.tree.leaves(gradient)))
    assert float(norms[0]) == pytest.approx(norm, rel=1e-4)


def test_only_models_with_the_same_labels_disagree(micro, tmp_path):
    kinds = every_kind(micro, 'pairs', 'tags', 'classes', 'labels')
    kinds = {
        name: replace(m, config=tmp_path / name / 'c', checkpoint=tmp_path / name / '1') for name, m in kinds.items()
    }
    classes = kinds['classes']
    again = replace(classes, config=tmp_path / 'seed_1' / 'c', checkpoint=tmp_path / 'seed_1' / '1')
    ranked_examples.check_others(classes, [again])
    for model, others, message in (
        (kinds['pairs'], [again], 'this model was trained to predict numbers for pairs of texts'),
        (classes, [kinds['tags']], '--other=.*tags was trained to tag words'),
        (classes, [classes], 'is this model itself, and a model always agrees with itself'),
        (classes, [again, again], 'is named twice'),
        (classes, [kinds['labels']], r'has the labels a, b, and this model no, yes'),
    ):
        with pytest.raises(UserError, match=message):
            ranked_examples.check_others(model, others)


def test_an_empty_list_has_a_reason(micro, monkeypatch):
    monkeypatch.setattr(ranked_examples.ranking, 'losses', lambda *_: np.zeros((2, 2)))
    kinds = every_kind(micro, 'classes', 'labels')
    for kind, label, reason in (
        ('labels', ('a',), 'not looked for: they are found .* one class per text'),
        ('classes', 'yes', 'none: the model gives no other class .* see --split=validation'),
    ):
        examples = [Example.of([text], label, text) for text in ('a card', 'some film')]
        monkeypatch.setattr(LabelledTable, 'examples', lambda self, split, examples=examples: examples)
        found = ranked_examples.rank(kinds[kind], 'train', 'loss')
        assert re.match(reason, found.reasons['Labels that are likely wrong']) and found.wrong == []
        assert len(found.duplicates) == 2  # the parts are the same here
        assert found.to_json()['reasons'] == found.reasons
    monkeypatch.setattr(ranked_examples, '_wrong', lambda *_: [(0, 'yes', 'no', 0.1)])
    monkeypatch.setattr(ranked_examples, '_duplicates', lambda *_: [])
    found = ranked_examples.rank(kinds['classes'], 'train', 'loss', similarity=0.9)
    assert found.reasons == {'Near-duplicates': 'none: no two texts have a similarity of at least 0.9.'}
