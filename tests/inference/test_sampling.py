"""What is drawn, and how often: against the warpers of Transformers, and by a chi-square test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from palm_jax.errors import UserError
from palm_jax.inference import sampling
from palm_jax.inference.generate import Sampler

V = 40
WARPERS = {
    'top_k': ({'top_k': 7}, [('TopKLogitsWarper', 7)]),
    'top_p': ({'top_p': 0.6}, [('TopPLogitsWarper', 0.6)]),
    'min_p': ({'min_p': 0.2}, [('MinPLogitsWarper', 0.2)]),
    'all': (
        {'temperature': 1.7, 'top_k': 20, 'top_p': 0.8, 'min_p': 0.05},
        [
            ('TemperatureLogitsWarper', 1.7),
            ('TopKLogitsWarper', 20),
            ('TopPLogitsWarper', 0.8),
            ('MinPLogitsWarper', 0.05),
        ],
    ),
}


def sampling_params(rows, **options):
    sampler = Sampler(**({'temperature': 1.0, 'top_p': 1.0} | options))
    return sampler.sampling_params(np.arange(rows), np.zeros(rows))


def logits(rows=6):
    return jnp.asarray(np.random.default_rng(2).normal(size=(rows, V)) * 2, jnp.float32)


@pytest.mark.parametrize(('options', 'theirs'), WARPERS.values(), ids=WARPERS)
def test_what_is_kept_is_what_transformers_keeps(options, theirs):
    torch = pytest.importorskip('torch')
    from transformers.generation import logits_process

    expected = torch.from_numpy(np.array(logits()))
    for name, value in theirs:
        expected = getattr(logits_process, name)(value)(None, expected)
    ours = sampling.truncated(logits() / options.get('temperature', 1.0), sampling_params(6, **options))
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-6)


def test_the_penalty_is_that_of_transformers():
    torch = pytest.importorskip('torch')
    from transformers.generation import RepetitionPenaltyLogitsProcessor

    ids = np.random.default_rng(0).integers(0, V, (6, 9))
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.from_numpy(ids), torch.from_numpy(np.array(logits())))
    seen = np.zeros((6, V), bool)
    seen[np.arange(6)[:, None], ids] = True
    np.testing.assert_allclose(sampling.penalized(logits(), jnp.full(6, 1.3), seen), expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize('options', [{'temperature': 0.7}, {'temperature': 1.3, 'top_p': 0.7}, {'top_k': 3}], ids=str)
def test_tokens_are_drawn_as_often_as_they_should(options):
    rows = 20_000
    one = logits(1)
    drawn = jax.jit(sampling.choose)(
        jnp.repeat(one, rows, axis=0), sampling_params(rows, **options), jnp.zeros(rows, int)
    )
    x = np.asarray(one[0], np.float64) / options.get('temperature', 1.0)
    p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    order = np.argsort(-p)
    kept = order[: options.get('top_k', V)]
    before = np.cumsum(p[kept]) - p[kept]
    kept = kept[before < options.get('top_p', 1.0)]
    expected = np.zeros(V)
    expected[kept] = p[kept] / p[kept].sum() * rows
    counts = np.bincount(drawn, minlength=V)
    assert counts[expected == 0].sum() == 0
    enough = expected >= 5  # what the test asks of every cell
    observed, wanted = (
        np.append(counts[enough], counts[~enough].sum()),
        np.append(expected[enough], expected[~enough].sum()),
    )
    cells = wanted > 0
    assert scipy.stats.chisquare(observed[cells], wanted[cells]).pvalue > 1e-3


def test_greedy_rows_among_drawn_ones_stay_greedy():
    mixed = sampling_params(6).replace(temperature=jnp.array([0.0, 5.0] * 3))
    drawn = np.array([sampling.choose(logits(), mixed, jnp.full(6, t)) for t in range(20)])
    greedy = np.argmax(logits(), axis=1)
    assert (drawn[:, ::2] == greedy[::2]).all() and (drawn[:, 1::2] != greedy[1::2]).any()
    np.testing.assert_array_equal(
        sampling.choose(logits(), sampling_params(6, temperature=0), jnp.zeros(6, int)), greedy
    )


EXTREMES = [
    {'temperature': 1e-30},
    {'temperature': 1e-45},
    {'temperature': 1e-300},
    {'top_p': 1e-30},
    {'top_p': 1e-60},
    {'temperature': 1e-9, 'top_p': 1e-9, 'top_k': 1, 'min_p': 1.0},
    {'temperature': 1e-37, 'min_p': 1e-60, 'top_p': 0.5},
    {'top_k': 1, 'temperature': 1e60},
    {'top_k': 2**40, 'min_p': 1.0},
    {'temperature': 0.0, 'repetition_penalty': 1e60},
    {'temperature': 0.0, 'repetition_penalty': 1e-60},
    {'top_k': 1, 'repetition_penalty': 1e38, 'temperature': 1e30},
    {'top_p': 1e-12, 'repetition_penalty': 1e-300, 'temperature': 1e-30},
]


@pytest.mark.parametrize('options', EXTREMES, ids=str)
@pytest.mark.parametrize('shift', [-100.0, 0.0, 100.0])
def test_extreme_parameters_choose_the_likeliest_token(options, shift):
    """Whatever over- or underflows, against the formula of the penalty in exact arithmetic."""
    penalty = options.get('repetition_penalty', 1.0)
    for seen in (np.zeros((6, V), bool), np.ones((6, V), bool), np.arange(V) % 2 == np.arange(6)[:, None] % 2):
        x = np.asarray(logits() + shift, np.longdouble)
        expected = np.argmax(np.where(seen, np.where(x > 0, x / penalty, x * penalty), x), axis=1)
        chosen = sampling.choose(logits() + shift, sampling_params(6, **options), jnp.zeros(6, int), jnp.asarray(seen))
        np.testing.assert_array_equal(chosen, expected)


@pytest.mark.parametrize('options', [{'temperature': 0.0}, {'temperature': 9.0}, {'top_k': 3}, {'top_p': 0.5}], ids=str)
def test_only_drawable_ids_are_drawn(options):
    drawable = np.arange(V) % 3 == 1
    choose = jax.jit(sampling.choose)
    likely = jnp.where(drawable, logits(), logits() + 50)  # what may not be drawn is what the model wants
    drawn = np.array([choose(likely, sampling_params(6, **options), jnp.full(6, t), None, drawable) for t in range(30)])
    assert drawable[drawn].all()
    if options == {'temperature': 0.0}:
        np.testing.assert_array_equal(drawn[0], np.argmax(np.where(drawable, logits(), -np.inf), axis=1))


def test_biases_are_those_of_transformers_and_0_changes_no_bit():
    torch = pytest.importorskip('torch')
    from transformers.generation import SequenceBiasLogitsProcessor

    given = {3: 2.5, 7: -100.0, 39: 0.5}
    theirs = SequenceBiasLogitsProcessor({(token,): bias for token, bias in given.items()})
    expected = theirs(torch.zeros(6, 1, dtype=torch.long), torch.from_numpy(np.array(logits())))
    params = sampling_params(6, logit_bias=given)
    np.testing.assert_allclose(sampling.biased(logits(), params), expected.numpy(), rtol=1e-6)
    chosen = sampling.choose(logits(), sampling_params(6, temperature=0.0, logit_bias={5: 100.0}), jnp.zeros(6, int))
    assert chosen.tolist() == [5] * 6
    padded = Sampler(temperature=1.0, top_p=1.0).sampling_params(np.arange(6), np.zeros(6), 8)
    plain = sampling_params(6)
    assert plain.bias is None and padded.bias.shape == (6, 8)
    np.testing.assert_array_equal(*(sampling.choose(logits(), p, jnp.zeros(6, int)) for p in (plain, padded)))
    for wrong in ({'5': 1.0}, {-1: 1.0}, {3: float('nan')}):
        with pytest.raises(UserError, match='logit_bias holds'):
            Sampler(logit_bias=wrong)
