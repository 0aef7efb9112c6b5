"""FGM, PGD and FreeLB against their formulas, with embedded inputs that are looked up by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.models.masks import Mask
from palm_jax.peft.prompt import SoftPrompt
from palm_jax.peft.trainable import join
from palm_jax.training.loss_wrappers.fgm import FGM
from palm_jax.training.loss_wrappers.freelb import FreeLB
from palm_jax.training.loss_wrappers.pgd import PGD
from tests.support.wrapped import KEY, LOSSES, build, features, outcome


def losses_of(kind, **options):
    """The loss as a function of (trained parameters, δ), and of it the gradient for both; rows are not weighed."""

    model, selection, params = build(kind, **options)
    trained, frozen = selection.split(params)
    batch = {name: jnp.asarray(x) for name, x in features(kind).items()}
    segments = batch.get('decoder_segment_ids')

    def loss(trained, delta):
        params = join(trained, frozen)
        x = params['embed']['embedding'][batch['decoder_input_tokens']] + delta
        rngs = None if not model.has_dropout else {'dropout': KEY}
        positions, mask = jnp.arange(x.shape[1])[None], Mask(segments, None)
        h = model.apply({'params': params}, x, positions, mask, rngs is None, rngs=rngs, method='transform')
        if kind == 'words':
            return LOSSES[kind].of_features(h, model, params, batch)[0]
        scores = model.apply({'params': params}, h, segments, method=lambda palm, *inputs: palm.head(*inputs))
        return LOSSES[kind].of_scores(scores, batch)[0]

    is_token = np.asarray(batch['decoder_target_tokens'] if segments is None else segments) != 0
    shape = (*is_token.shape, model.arch.d_model)
    return jax.jit(jax.value_and_grad(loss, (0, 1))), trained, is_token[..., None], shape


def length(x):
    return np.sqrt(np.square(x).sum(axis=(1, 2), keepdims=True))


def along(gradient, is_token):
    gradient = np.asarray(gradient, np.float64) * is_token
    return gradient / np.maximum(length(gradient), 1e-8)


def expected_of(wrapper, kind, **options):
    """The value and the gradient of the trained parameters by the papers' formulas."""
    loss, trained, is_token, shape = losses_of(kind, **options)
    delta = np.zeros(shape)
    if isinstance(wrapper, FreeLB):
        weights = [1 / wrapper.steps] * wrapper.steps
        noise = jax.random.uniform(jax.random.fold_in(KEY, 1), shape, jnp.float32, -1, 1)
        delta = noise * is_token * wrapper.magnitude / np.sqrt(is_token.sum(axis=1, keepdims=True) * shape[-1])
    elif isinstance(wrapper, FGM):
        weights = [1, wrapper.weight]
    else:
        weights = [1, *[0] * (wrapper.steps - 1), wrapper.weight]
    total, gradient = 0.0, None
    for weight in weights:
        value, (of_params, of_delta) = loss(trained, jnp.asarray(delta, jnp.float32))
        total += weight * value
        part = jax.tree.map(lambda g, weight=weight: weight * g, of_params)
        gradient = part if gradient is None else jax.tree.map(jnp.add, gradient, part)
        step = along(of_delta, is_token)
        if isinstance(wrapper, FGM):
            delta = wrapper.epsilon * step
            continue
        radius = wrapper.max_norm if isinstance(wrapper, FreeLB) else wrapper.epsilon
        delta = delta + wrapper.step_size * step
        if radius:
            delta = delta * np.minimum(1, radius / np.maximum(length(delta), 1e-8))
    return total, gradient


FREE = {'methods': (), 'trainable': ('embed/.*', 'head/.*')}  # a gradient for the embedding, which is perturbed
PROMPT = {'methods': (SoftPrompt(length=2),), 'dropout_rate': 0.0}  # inputs that are not perturbed
CASES = {
    'fgm': (FGM(epsilon=0.8, weight=0.5), 'class', FREE),
    'pgd': (PGD(steps=2, step_size=0.5, epsilon=0.7), 'class', PROMPT),
    'freelb': (FreeLB(steps=2, step_size=0.3, magnitude=0.6, max_norm=0.5), 'words', {}),
}
MORE = {
    'fgm of tokens': (FGM(), 'tokens', {}),
    'pgd of words': (PGD(), 'words', {}),
    'freelb of labels': (FreeLB(steps=3, magnitude=0.0), 'labels', {}),
}


@pytest.mark.parametrize(
    'case', [*CASES.values(), *(pytest.param(case, marks=pytest.mark.slow) for case in MORE.values())]
)
def test_the_formula(case):
    wrapper, kind, options = case
    value, metrics, gradient = outcome(kind, (wrapper,), **options)
    expected_value, expected_gradient = expected_of(wrapper, kind, **options)
    np.testing.assert_allclose(value, expected_value, rtol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-3, atol=2e-5), gradient, expected_gradient)
    if isinstance(wrapper, FGM):
        assert metrics['adversarial_loss'].value() > metrics['loss'].value()
        # A row that the loss does not weigh has no gradient: it is not perturbed, and nothing is divided by zero.
        weighed = metrics['loss'].count / 4 if kind == 'class' else 3 / 4
        np.testing.assert_allclose(metrics['perturbation'].value(), wrapper.epsilon * weighed, rtol=1e-5)
