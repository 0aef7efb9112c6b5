"""Weights and vocabularies in the formats of other projects."""

import contextlib

# Exporters and importers use PyTorch in a process that also loads TensorFlow. triton, PyTorch's compiler, crashes the
# process (segmentation fault) when it is loaded after TensorFlow, so it is loaded here, before either of them.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401
