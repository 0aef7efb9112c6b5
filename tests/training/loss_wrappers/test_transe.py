"""TransE beside a loss, against its formula in NumPy."""

import jax
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.peft.lora import LoRA
from palm_jax.peft.relations import RelationVectors, with_relations
from palm_jax.training.loss_wrappers.transe import TransE
from palm_jax.training.loss_wrappers.wrapper import wrap
from tests.support.triples import LENGTH, triple_features
from tests.support.wrapped import LOSSES, build, features, inputs_of, outcome, trained_for

ALL = {'methods': (RelationVectors(4),), 'dropout_rate': 0.0}


def batch_of(kind):
    return features(kind) | triple_features(4)


@pytest.mark.parametrize(
    ('kind', 'norm', 'margin'), [('class', 2, 0.1), pytest.param('words', 1, 3.0, marks=pytest.mark.slow)]
)
def test_the_loss_is_that_of_the_paper(kind, norm, margin):
    wrapper, batch = TransE(weight=0.7, margin=margin, norm=norm), batch_of(kind)
    value, metrics, gradient = outcome(kind, (wrapper,), batch, **ALL)
    plain, _, _ = outcome(kind, (), features(kind), **ALL)
    model, _, params = build(kind, **ALL)
    shape = batch['triple_tokens'].shape[:3]
    names = [batch[name].reshape(-1, LENGTH) for name in ('triple_tokens', 'triple_segment_ids')]
    features_of = jax.jit(lambda p: model.apply({'params': p}, names[0], None, names[1], method='features'))
    h = np.float64(features_of(params)).reshape(*shape, LENGTH, -1)
    inside = batch['triple_segment_ids'][..., None]
    e = (h * inside).sum(axis=3) / inside.sum(axis=3)
    e /= np.linalg.norm(e, axis=-1, keepdims=True)
    r = np.float64(params['relations']['embedding'])[batch['triple_relations']]
    terms = []
    for row, k in np.ndindex(*shape[:2]):
        head, tail, other = e[row, k]
        wrong = (head, other) if batch['triple_corrupts_tail'][row, k] else (other, tail)
        right, false = (np.linalg.norm(a + r[row, k] - b, ord=norm) for a, b in ((head, tail), wrong))
        terms.append(max(0.0, margin + right - false))
    assert np.count_nonzero(terms) > 0 and (margin > 1 or np.count_nonzero(terms) < len(terms))
    count = metrics['loss'].count
    np.testing.assert_allclose(float(value - plain), 0.7 * count * np.mean(terms), rtol=2e-3)
    assert metrics['transe_loss'].value() == pytest.approx(np.mean(terms), rel=1e-3)
    assert np.any(gradient['relations']['embedding']) and all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_vectors_add_to_what_is_trained():
    model, selection, params = build('class', **ALL)
    trained, frozen = selection.split(params)
    assert not jax.tree.leaves(frozen) and 'relations' in trained
    assert model.merge(params).keys() == params.keys() - {'relations'}
    _, selection, params = build('class', methods=(LoRA(rank=2), RelationVectors(4)))
    trained, frozen = selection.split(params)
    assert trained.keys() == {'stack', 'head', 'relations'} and 'embed' in frozen
    assert with_relations([LoRA()], 8, weight=0.0) == (LoRA(),)
    assert with_relations([LoRA()], 8) == (LoRA(), RelationVectors(8))


def test_off_it_changes_no_bit_and_on_steps_resume_bit_for_bit():
    plain = trained_for(2, 'class', (), **ALL)
    off = trained_for(2, 'class', (TransE(weight=0.0),), batch=batch_of('class'), **ALL)
    jax.tree.map(np.testing.assert_array_equal, plain, off)
    with_dropout = {'methods': (LoRA(rank=2), RelationVectors(4))}
    batch, wrappers = batch_of('class'), (TransE(margin=0.2),)
    whole, metrics = trained_for(3, 'class', wrappers, batch=batch, **with_dropout)
    part, first = trained_for(1, 'class', wrappers, batch=batch, **with_dropout)
    again, same = trained_for(2, 'class', wrappers, jax.tree.map(np.asarray, part), batch=batch, **with_dropout)
    jax.tree.map(np.testing.assert_array_equal, (whole, metrics), (again, same))
    later, _ = trained_for(30, 'class', wrappers, whole, batch=batch, **with_dropout)
    _, last = trained_for(1, 'class', wrappers, later, batch=batch, **with_dropout)
    assert last['transe_loss'].value() < first['transe_loss'].value()


def test_a_batch_without_triples_is_refused():
    model, _, params = build('class', **ALL)
    with pytest.raises(UserError, match=r'include gin/methods/transe\.gin'):
        jax.eval_shape(lambda: wrap(LOSSES['class'], (TransE(),))(inputs_of(model, params, features('class'))))
