"""Steered decoding against the three models' own logits, one token at a time, in NumPy."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from palm_jax.api.steering import steer
from palm_jax.errors import UserError
from palm_jax.inference.generate import Sampler, drawable_ids
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.serving.models import ServedModel
from palm_jax.training import state
from tests.support import http
from tests.support.architectures import MICRO
from tests.support.kinds import every_kind
from tests.support.models import applied
from tests.support.server import alone, running


@pytest.fixture(scope='module')
def models():
    """A base, an expert of another depth, and an anti-expert, with random parameters."""

    def micro(**changes):
        return PaLM(Architecture(**(MICRO | changes))), None

    found = []
    for seed, layers in ((0, 1), (1, 2), (2, 1)):
        model = every_kind(micro, 'text')['text']
        module = model.model.clone(arch=dataclasses.replace(model.model.arch, num_layers=layers))
        params = jax.jit(lambda rng, m=module: state.unbox(state.init_params(m, rng)))(jax.random.key(seed))
        params = jax.tree.map(lambda x: 3 * x, params)
        found.append(dataclasses.replace(model, model=module, params=params))
    return found


def logits_of(model, ids):
    padded = np.pad(np.array([ids], np.int32), [(0, 0), (0, 32 - len(ids))])  # one shape, one program
    return np.float64(applied(model.model, model.params, padded))[0, : len(ids)]


def steered_logits(models, ids, strength, top_p=1.0):
    base, *others = (None if model is None else logits_of(model, ids) for model in models)
    expert, anti = (base if z is None else z for z in others)
    z = base + strength * (expert - anti)
    if top_p < 1:
        p = np.sort(softmax(base, -1), -1)[:, ::-1]
        count = (np.cumsum(p, -1) - p < top_p).sum(-1)
        smallest = np.take_along_axis(p, count[:, None] - 1, -1)
        z = np.where(softmax(base, -1) >= smallest, z, -np.inf)
    return z


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ('both', 'anti-expert alone', 'expert alone')]


@pytest.mark.parametrize('parts', [*SLOW, 'nucleus'])
def test_the_likeliest_tokens_are_those_of_the_formula(models, parts):
    base, expert, anti = models
    used = [base, None if parts == 'anti-expert alone' else expert, None if parts == 'expert alone' else anti]
    top_p = 0.5 if parts == 'nucleus' else 1.0
    model = steer(used[0], used[1], used[2], 1.5, top_p)
    (found,) = model.completions(['a text'], Sampler(max_tokens=5, temperature=0.0))[0]
    ids = list(model.predictor.prompt(model, 'a text'))
    length, plain = len(ids), ids
    for token, logprob in zip(found.ids, found.logprobs, strict=False):
        z = steered_logits(used, plain, 1.5, top_p)[-1]
        allowed = np.where(drawable_ids(model.data.vocabulary, len(z)), z, -np.inf)
        assert token == allowed.argmax() and logprob == pytest.approx(log_softmax(z)[token], abs=2e-3)
        plain = [*plain, token]
    assert len(plain) == length + len(found.ids) and found.ids
    if parts != 'nucleus':
        return
    free = steer(base, expert, anti, 1.5).completions(['a text'], Sampler(max_tokens=5, temperature=0.0))[0][0]
    assert free.ids != found.ids


def test_scores_are_steered_too_and_strength_0_is_the_base(models):
    base, expert, anti = models
    pairs = [('a', ' text'), ('b', 'xyz')]
    for (given, text), found in zip(pairs, steer(base, expert, anti, 0.7).score(pairs), strict=True):
        ids = [*base.predictor.prompt(base, given), *base.predictor.target(base, text)]
        log_p = log_softmax(steered_logits(models, ids[:-1], 0.7), -1)
        start = len(base.predictor.prompt(base, given)) - 1
        expected = [log_p[t, ids[t + 1]] for t in range(start, len(ids) - 1)]
        np.testing.assert_allclose(found.logprobs, expected, atol=2e-3)
    sampler = Sampler(max_tokens=6, temperature=0.0)
    texts = ['a text', 'another']
    assert steer(base, expert, anti, 0.0).generate(texts, sampler) == base.generate(texts, sampler)


def test_a_server_serves_it(models):
    served = {'s': ServedModel('s', steer(*models, 1.5))}
    with running(served, slots=2) as site:
        body = {'model': 's', 'prompt': 'a text', 'max_tokens': 5, 'temperature': 0}
        answer = http.post(f'{site.url}/v1/completions', json=body, timeout=60).json()
    assert answer['choices'][0]['text'] == alone(served, 's', 'a text', 5)


def test_models_that_cannot_steer_are_refused(models, micro):
    base, expert, _ = models
    with pytest.raises(UserError, match='needs an expert or an anti-expert'):
        steer(base)
    with pytest.raises(UserError, match='the expert was trained to label texts'):
        steer(base, every_kind(micro, 'classes')['classes'])
    wider = expert.model.clone(arch=dataclasses.replace(expert.model.arch, vocab_size=300))
    with pytest.raises(UserError, match='The anti-expert has another vocabulary'):
        steer(base, None, dataclasses.replace(expert, model=wider))
    with pytest.raises(UserError, match='cannot be saved as one'):
        steer(base, expert).save('runs/x')
