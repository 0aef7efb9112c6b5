"""Tokens and a class in one pass equal the two losses apart."""

import jax
import numpy as np

from palm_jax.models.heads import Head
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.training.head_losses import ClassLoss, TokensAndLabelLoss
from palm_jax.training.losses import LanguageModelLoss
from tests.support.architectures import MICRO
from tests.support.models import initial


def test_the_joint_loss_is_the_weighted_sum_of_both_and_so_is_its_gradient(batch):
    model = PaLM(Architecture(**MICRO), head=Head(2, pooling='first'))
    params = initial(model)
    rows = len(batch['decoder_input_tokens'])
    batch |= {
        'decoder_segment_ids': np.ones_like(batch['decoder_input_tokens']),
        'decoder_causal_attention': np.ones_like(batch['decoder_input_tokens']),
        'labels': np.arange(rows) % 2,
        'label_weights': np.ones(rows, np.int32),
    }
    tokens, label = LanguageModelLoss(), ClassLoss()
    joint = TokensAndLabelLoss(tokens, label, label_weight=7.0)

    def apart(params):
        return tokens(model, params, batch)[0] + 7.0 * label(model, params, batch)[0]

    value, metrics = joint(model, params, batch)
    np.testing.assert_allclose(value, apart(params), rtol=1e-6)
    together, separate = (jax.jit(jax.grad(f))(params) for f in (lambda p: joint(model, p, batch)[0], apart))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), together, separate)
    assert metrics['label_loss'].value() == label(model, params, batch)[1]['loss'].value()
    assert metrics['loss'].count == batch['decoder_loss_weights'].sum() and metrics['label_accuracy'].count == rows
