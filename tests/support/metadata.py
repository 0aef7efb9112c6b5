"""Checkpoint metadata of models in unit tests."""

from palm_jax.checkpoint_metadata import CheckpointMetadata

METADATA = CheckpointMetadata(vocabulary='bytes')
