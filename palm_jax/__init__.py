"""A PaLM-style language model in JAX: pretrain once, adapt cheaply the part you name."""

import contextlib

with contextlib.suppress(ImportError):
    import triton  # noqa: F401 - torch's compiler; loaded after TensorFlow it ends the process (a segmentation fault)

__version__ = '0.1.0'
