"""Corpora as token caches and batches, and the self-supervised objectives. No TensorFlow."""
