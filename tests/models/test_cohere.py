"""Logits, loss and gradients against Transformers: a PaLM block is Cohere's with one key/value head."""

import numpy as np
import pytest

from tests.support.cohere import cohere, relative_error, to_cohere
from tests.support.models import applied, loss_and_gradients

torch = pytest.importorskip('torch', reason='the peers are not installed: pip install "palm_jax[peers]"')

SHAPES = {
    'H·K = d': {'d_model': 32, 'num_heads': 4, 'head_dim': 8},
    'H·K > d': {'d_model': 32, 'num_heads': 6, 'head_dim': 8},
    'H·K < d': {'d_model': 48, 'num_heads': 2, 'head_dim': 16},
    'grouped': {'d_model': 32, 'num_heads': 4, 'head_dim': 8, 'num_kv_heads': 2, 'rope_theta': 500_000.0},
}


@pytest.mark.parametrize('changes', SHAPES.values(), ids=SHAPES)
def test_logits_loss_and_gradients_equal_transformers(micro, tokens, changes):
    model, params = micro(**changes)
    theirs = cohere(model, params)
    ids = torch.from_numpy(tokens.astype(np.int64))
    logits = theirs(input_ids=ids).logits
    assert relative_error(applied(model, params, tokens), logits.detach()) < 1e-5

    # Their labels are shifted inside: position l predicts token l + 1.
    their_loss = theirs(input_ids=ids, labels=ids).loss
    their_loss.backward()
    value, grads = loss_and_gradients(model, params, tokens)
    assert abs(value - their_loss.item()) / their_loss.item() < 1e-5
    for name, grad in to_cohere(grads).items():
        their_grad = theirs.get_parameter(name).grad
        assert relative_error(grad.reshape(their_grad.shape), their_grad) < 1e-5, name
