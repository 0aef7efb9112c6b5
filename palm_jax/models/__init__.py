"""The PaLM decoder in Flax Linen: jax and flax only."""
