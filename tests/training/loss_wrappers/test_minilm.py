"""Distillation of relations against NumPy: queries, keys and values of the last layer from the paper's equations."""

import jax
import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr

from palm_jax.errors import UserError
from palm_jax.peft.prefix import Prefix
from palm_jax.training.loss_wrappers.freelb import FreeLB
from palm_jax.training.loss_wrappers.minilm import MiniLM
from palm_jax.training.pretrained import architecture
from palm_jax.training.teachers import Teacher
from tests.support import numpy_palm
from tests.support.wrapped import build, features, outcome, teachers_of, trained_for, write_teacher

ALL = {'methods': (), 'trainable': ('.*',), 'dropout_rate': 0.0}
ALPHA = 0.3


@pytest.fixture(scope='module')
def teachers(tmp_path_factory):
    """Teachers of two layers: with four query heads, with two, and with several heads of keys and values."""
    shapes = {'four': {'num_heads': 4}, 'two': {'num_heads': 2}, 'grouped': {'num_heads': 4, 'num_kv_heads': 2}}
    return {n: Teacher(write_teacher(tmp_path_factory.mktemp(n), **changes)) for n, changes in shapes.items()}


def attention(params, tokens, arch, layer):
    """Queries, keys and values of a layer, [L, heads, K] each."""
    p, angles = params['stack'], [numpy_palm.frequency(n, arch.head_dim, arch) for n in range(arch.head_dim // 2)]
    x = params['embed']['embedding'].astype(np.float64)[tokens]
    for i in range(layer + 1):
        h = numpy_palm.norm(x, p['norm']['scale'][i], arch.norm, arch.norm_epsilon)
        x = x + numpy_palm.mlp(p, i, h, arch) + numpy_palm.attention(p, i, h, arch)
    qkv = [np.einsum('LD,DHK->LHK', h, p['attn']['qkv'][name][layer]) for name in 'qkv']
    turned = [np.stack([numpy_palm.rope(x[:, head], angles) for head in range(x.shape[1])], axis=1) for x in qkv[:2]]
    return dict(zip('qkv', (*turned, qkv[2]), strict=True))


def relation(x, y):
    """softmax(x·yᵀ / √K) over the tokens up to each one, [heads, L, L]."""
    scores = np.einsum('LRK,MRK->RLM', x, y) / np.sqrt(x.shape[-1])
    return np.exp(log_softmax(np.where(np.tril(np.ones(scores.shape[-2:])) > 0, scores, -np.inf), axis=-1))


def expected(teacher, batch, relations, heads, teacher_layer=1):
    """The mean over tokens of Σ_R KL(R_T ‖ R_S)."""
    (taught,) = teachers_of((MiniLM(relations=('vv',), teacher=teacher),)).values()
    model, _, params = build('class', **ALL)
    total, count = 0.0, 0
    for tokens, segments in zip(batch['decoder_input_tokens'], batch['decoder_segment_ids'], strict=True):
        tokens = tokens[segments > 0]
        count += len(tokens)
        both = (
            attention(jax.device_get(taught), tokens, architecture(teacher.path), teacher_layer),
            attention(jax.device_get(params), tokens, model.arch, 0),
        )
        for first, second in relations:
            sides = []
            for found in both:
                x, y = found[first], found[second]
                if first == second:
                    x = y = x.reshape(len(tokens), heads[first], -1)
                sides.append(relation(x, np.repeat(y, x.shape[1] // y.shape[1], axis=1)))
            total += rel_entr(*sides).sum(axis=-1).mean(axis=0).sum()
    return total / count


@pytest.mark.parametrize(
    'name, relations, relation_heads, heads',
    [
        pytest.param('four', ('qk', 'vv'), None, {'v': 1}, marks=pytest.mark.slow),
        pytest.param('two', ('qq', 'kk', 'vv'), None, {'q': 2, 'k': 1, 'v': 1}, marks=pytest.mark.slow),
        ('grouped', ('qk', 'qq', 'vv'), 4, {'q': 4, 'v': 4}),
    ],
)
def test_the_formula(teachers, name, relations, relation_heads, heads):
    batch, method = features('class'), MiniLM(ALPHA, relations, relation_heads, teacher=teachers[name])
    method.check(build('class', **ALL)[0])
    value, metrics, gradient = outcome('class', (method,), batch, **ALL)
    plain, before, _ = outcome('class', (), batch, **ALL)
    mean = expected(teachers[name], batch, relations, heads)
    assert mean > 1e-3
    np.testing.assert_allclose(metrics['relation_divergence'].value(), mean, rtol=1e-4)
    np.testing.assert_allclose(value, (1 - ALPHA) * plain + ALPHA * mean * before['loss'].count, rtol=1e-4)
    assert metrics['loss'].value() == pytest.approx(before['loss'].value(), rel=1e-5)
    assert np.any(gradient['stack']['attn']['qkv']['v']) and np.any(gradient['head']['kernel'])


def test_another_layer_of_the_teacher_and_relations_alone(teachers):
    method = MiniLM(1.0, ('vv',), teacher_layer=0, teacher=teachers['four'])
    value, metrics, gradient = outcome('class', (method,), **ALL)
    mean = expected(teachers['four'], features('class'), ('vv',), {'v': 1}, teacher_layer=0)
    np.testing.assert_allclose(value, mean * metrics['loss'].count, rtol=1e-4)
    assert not np.any(gradient['head']['kernel'])


@pytest.mark.slow
def test_a_prefix_is_none_of_the_text(teachers):
    """Its keys have no counterpart in the teacher, and an adversary does not perturb it."""
    method = MiniLM(ALPHA, ('qk', 'vv'), teacher=teachers['four'])
    _, metrics, _ = outcome('class', (method, FreeLB(steps=2)), methods=(Prefix(length=3),))
    assert np.isfinite(metrics['relation_divergence'].value()) and metrics['relation_divergence'].count == 4 * 12 - 4


def test_steps_continue_bit_for_bit_and_relations_are_learned(teachers):
    wrappers = (MiniLM(1.0, teacher=teachers['grouped']),)
    whole, _ = trained_for(3, 'class', wrappers, **ALL)
    part, first = trained_for(1, 'class', wrappers, **ALL)
    again, _ = trained_for(2, 'class', wrappers, jax.tree.map(np.asarray, part), **ALL)
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    _, last = trained_for(40, 'class', wrappers, whole, **ALL)
    assert last['relation_divergence'].value() < 0.5 * first['relation_divergence'].value()


def test_what_does_not_fit_is_refused(teachers):
    model = build('class', **ALL)[0]
    with pytest.raises(UserError, match=r"2 query heads, this model 4\. Take --gin\.MINILM_RELATIONS=.*'qq'"):
        MiniLM(teacher=teachers['two']).check(model)
    with pytest.raises(UserError, match=r'RELATION_HEADS = 3 does not divide the v of .*; 1, 2, 4, 8 do'):
        MiniLM(relations=('vv',), relation_heads=3, teacher=teachers['four']).check(model)
    with pytest.raises(UserError, match='TEACHER_LAYER = 2; the teacher has 2 layers'):
        MiniLM(teacher_layer=2, teacher=teachers['four']).check(model)
