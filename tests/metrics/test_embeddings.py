"""Alignment and uniformity against the paper's formulas."""

import numpy as np
import torch

from palm_jax.metrics import embeddings


def test_alignment_and_uniformity_are_those_of_the_papers_code():
    x, y = np.random.default_rng(0).normal(size=(2, 30, 8)).astype(np.float32)
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    a, b = torch.tensor(x), torch.tensor(y)
    np.testing.assert_allclose(embeddings.alignment(x, y), (a - b).norm(p=2, dim=1).pow(2).mean(), rtol=1e-5)
    expected = torch.pdist(a, p=2).pow(2).mul(-2).exp().mean().log()
    np.testing.assert_allclose(embeddings.uniformity(x), expected, rtol=1e-5)
    assert embeddings.uniformity(np.repeat(x[:1], 5, axis=0)) == 0 == embeddings.uniformity(x[:1])
