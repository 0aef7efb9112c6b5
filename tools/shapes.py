"""The models that benchmarks measure, without data and without configuration."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from palm_jax.models.palm import Architecture

# Layers, width, heads, head size; the vocabulary has 32,000 ids.
SIZES = {
    'tiny': (4, 192, 4, 48),
    '40m': (8, 512, 8, 64),
    'base': (12, 832, 8, 128),
    '400m': (24, 1024, 16, 64),
    '1b': (16, 2048, 16, 128),
    '2b': (26, 2304, 18, 128),
    '8b': (32, 4096, 16, 256),
}
VOCABULARY = 32_000
# Published models that are not PaLM's block, as fields of `Architecture`; for fine-tuning.
PUBLISHED: dict[str, dict[str, Any]] = {
    'smollm2-135m': {
        'vocab_size': 49_152,
        'num_layers': 30,
        'd_model': 576,
        'num_heads': 9,
        'num_kv_heads': 3,
        'head_dim': 64,
        'mlp_dim': 1536,
        'parallel': False,
        'norm': 'rmsnorm',
        'norm_epsilon': 1e-5,
        'rope_theta': 1e5,
        'logit_scale': 1.0,
    },
}


def architecture(options: argparse.Namespace) -> Architecture:
    """Return the architecture to measure; options that a command lacks have the defaults of `Architecture`."""
    return Architecture(
        **_fields(options.size),
        dtype=options.dtype,
        unroll_layers=getattr(options, 'unroll', 'auto'),
        fuse_projections=getattr(options, 'fuse', 'auto'),
        remat=getattr(options, 'remat', 'none'),
        attention=getattr(options, 'attention', 'auto'),
    )


def _fields(size: str) -> dict[str, Any]:
    if size in PUBLISHED:
        return PUBLISHED[size]
    layers, width, heads, head_dim = SIZES[size]
    return {
        'vocab_size': VOCABULARY,
        'num_layers': layers,
        'd_model': width,
        'num_heads': heads,
        'head_dim': head_dim,
    }


def describe(options: argparse.Namespace) -> str:
    """Return the shape in words."""
    arch = _fields(options.size)
    return '{num_layers} layers, width {d_model}, {num_heads} heads of {head_dim}'.format(**arch)


def synthetic_tokens(options: argparse.Namespace) -> np.ndarray:
    """Return the batch that all contenders train on."""
    return np.random.default_rng(0).integers(0, VOCABULARY, (options.batch, options.length)).astype(np.int32)


def packed_documents(options: argparse.Namespace, documents: int) -> np.ndarray:
    """Return the segment ids, int32 [B, L], of a number of documents of unequal lengths in every row."""
    rng, rows = np.random.default_rng(1), []
    for _ in range(options.batch):
        ends = np.sort(rng.choice(np.arange(1, options.length), documents - 1, replace=False))
        rows.append(1 + np.searchsorted(ends, np.arange(options.length), side='right'))
    return np.stack(rows).astype(np.int32)
