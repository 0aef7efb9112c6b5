"""Optimizers, losses, the train step and the loop; jax, flax, optax and orbax, no TensorFlow."""
