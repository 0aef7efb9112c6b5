"""Sampling and beam search generate the same text on one device and on a mesh of eight."""

import jax
import numpy as np

from palm_jax.api import loading
from palm_jax.inference.beam import BeamSearch
from palm_jax.inference.generate import Sampler
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.partitioning import MeshLayout
from tests.support.vocabularies import Numbers

assert jax.device_count() == 8
model = PaLM(Architecture(vocab_size=64, num_layers=2, d_model=32, num_heads=4, head_dim=8))
split = loading._in_place(model, MeshLayout(model=2))
assert split['stack']['attn']['qkv']['q'].addressable_shards[0].data.shape == (2, 8, 2, 8)
whole = jax.tree.map(np.asarray, split)
prompts = [[0, *range(3, 3 + n)] for n in (2, 9, 4)]
beam = BeamSearch(num_beams=2, max_tokens=5)
for writer in (Sampler(max_tokens=8, temperature=0), Sampler(max_tokens=8, seed=3), beam):
    one, eight = (writer.generate(model, params, Numbers(), prompts, 32) for params in (whole, split))
    assert [c.ids for of in one for c in of] == [c.ids for of in eight for c in of]
print('equal')
