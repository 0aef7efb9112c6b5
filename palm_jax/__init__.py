"""A PaLM-style language model in JAX: pretrain once, adapt cheaply the part you name."""

__version__ = '0.1.0'
