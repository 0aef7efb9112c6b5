"""What a run takes over from the checkpoint that it starts from, and what it chooses for itself."""

import json

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.models.palm import Architecture
from palm_jax.training import pretrained


def test_kernels_are_those_of_the_runs_platform_and_not_of_the_bases(tmp_path):
    arch = Architecture(vocab_size=64, num_layers=2, d_model=32, num_heads=2, head_dim=16, rope_theta=500.0)
    of_tpu = {'attention': 'splash', 'fuse_projections': False, 'unroll_layers': 2, 'remat': 'full'}
    step = tmp_path / 'checkpoints' / '1'
    (step / 'state').mkdir(parents=True)
    (step / 'metadata').mkdir()
    metadata = CheckpointMetadata.of_model(Architecture(**(vars(arch) | of_tpu)), 'bytes').to_json()
    (step / 'metadata' / 'metadata').write_text(json.dumps(metadata))
    assert pretrained.architecture(str(tmp_path)) == Architecture(**(vars(arch) | {'unroll_layers': 'auto'}))
    assert pretrained.architecture(str(tmp_path), attention='intervals').attention == 'intervals'
