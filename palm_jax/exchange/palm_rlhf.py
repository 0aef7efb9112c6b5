"""Import of weights of PaLM-rlhf-pytorch (lucidrains), as published by conceptofmind (150M to 2.1B).

The block is PaLM's, with xPos, rotary embeddings that pair halves as here, the five input projections in one
matrix (queries, keys, values, up, gate) and unscaled logits. Norms are stored with or without a unit offset,
and older versions have no norm before the logits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from palm_jax.errors import UserError
from palm_jax.exchange.tensors import ParamDtype, Tensor, heads_out
from palm_jax.models.architecture import Architecture

_LAYER = 'layers.{}.fn.'
_FUSED = _LAYER + 'fused_attn_ff_proj.weight'
_SCALE_BASE = 512.0  # the default of the package; its files do not contain it
_UNUSED = re.compile(r'.*(\.beta|rotary_emb\.(inv_freq|scale)|\.mask|pos_emb)|to_logits\.weight')


@contextmanager
def open_weights(path: Path) -> Iterator[Mapping[str, Any]]:
    """Open the tensors of a file, memory-mapped; unpickles tensors only.

    Raises:
      UserError: if there is no such file, or it contains anything but tensors.
    """
    if not path.is_file():
        raise UserError(f'{path}: no such file; name the .pt or .bin file with the weights.')
    import torch

    try:
        content = torch.load(path, map_location='cpu', mmap=True, weights_only=True)
    except Exception as error:
        raise UserError(f'{path}: not a file of tensors only ({str(error).splitlines()[0]}).') from None
    while isinstance(content, Mapping) and len(content) <= 4 and 'token_emb.weight' not in content:
        inner = next((v for v in content.values() if isinstance(v, Mapping)), None)  # such as {'model': {...}}
        if inner is None:
            break
        content = inner
    prefix = next((n.removesuffix('token_emb.weight') for n in content if n.endswith('token_emb.weight')), None)
    if prefix is None:
        raise UserError(f'{path} has no token_emb.weight: it is not a PaLM of PaLM-rlhf-pytorch.')
    yield {name.removeprefix(prefix): tensor for name, tensor in content.items()}


def architecture(found: Mapping[str, Any], dtype: ParamDtype, head_dim: int | None = None) -> Architecture:
    """Infer the architecture from the shapes.

    Args:
      found: tensors of the file.
      dtype: type of the stored weights.
      head_dim: size of a head, for files without rotary frequencies.

    Raises:
      UserError: if the weights have QK-norm, which differs from the one here, or a size cannot be inferred.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if any(name.endswith('q_scale') for name in shapes):
        raise UserError('These weights have QK-norm (q_scale), which is computed differently here.')
    depth = 1 + max((int(m[1]) for name in shapes if (m := re.match(r'layers\.(\d+)\.', name))), default=-1)
    frequencies = shapes.get(_LAYER.format(0) + 'rotary_emb.inv_freq')
    head_dim = head_dim or (2 * frequencies[0] if frequencies else None)
    if head_dim is None:
        raise UserError('The file does not contain the size of a head; name it: --head_dim=128')
    needed = ('attn_out.weight', 'ff_out.2.weight')
    if missing := [name for name in needed if _LAYER.format(0) + name not in shapes]:
        raise UserError(f'layers.0.fn lacks {", ".join(missing)}: it is not a PaLM of PaLM-rlhf-pytorch.')
    (vocab_size, width), inner = shapes['token_emb.weight'], shapes[_LAYER.format(0) + 'attn_out.weight'][1]
    return Architecture(
        vocab_size=vocab_size,
        num_layers=depth,
        d_model=width,
        num_heads=inner // head_dim,
        head_dim=head_dim,
        mlp_dim=shapes[_LAYER.format(0) + 'ff_out.2.weight'][1],
        norm_epsilon=1e-5,
        xpos_scale_base=_SCALE_BASE,
        final_norm='norm.gamma' in shapes,
        logit_scale=1.0,
        param_dtype=dtype,
    )


def tensors(arch: Architecture, found: Mapping[str, Any]) -> list[Tensor]:
    """Return the mappings of all parameters; five of them take rows of the fused matrix."""
    D, F, V = arch.d_model, arch.hidden_dim, arch.vocab_size
    H, K = arch.num_heads, arch.head_dim
    # Norms initialized to zero are stored without their unit offset.
    gammas = [np.asarray(found[n].float()) for n in found if re.fullmatch(r'(layers\.\d+\.fn\.)?norm\.gamma', n)]
    unit = 1.0 if gammas and np.mean([gamma.mean() for gamma in gammas]) < 0.5 else 0.0

    def norm(path: str, name: str) -> Tensor:
        return Tensor(path, name, (D,), lambda x: x - unit, lambda y: y + unit)

    def fused_shape(x: np.ndarray) -> np.ndarray:
        """Return an array of the shape of the fused matrix, which is never exported."""
        return np.broadcast_to(np.int8(0), (H * K + 2 * K + 2 * F, D))

    def rows(path: str, first: int, count: int, shape: tuple[int, ...]) -> Tensor:
        def import_layer(y: np.ndarray) -> np.ndarray:
            return y[first : first + count].T.reshape(shape)

        return Tensor(path, _FUSED, shape, fused_shape, import_layer)

    return [
        Tensor('embed/embedding', 'token_emb.weight', (V, D)),
        *([norm('final_norm/scale', 'norm.gamma')] if arch.final_norm else []),
        norm('stack/norm/scale', _LAYER + 'norm.gamma'),
        rows('stack/attn/qkv/q', 0, H * K, (D, H, K)),
        rows('stack/attn/qkv/k', H * K, K, (D, 1, K)),
        rows('stack/attn/qkv/v', H * K + K, K, (D, 1, K)),
        heads_out('stack/attn/out/kernel', _LAYER + 'attn_out.weight', H, K, D),
        rows('stack/mlp/in/up', H * K + 2 * K, F, (D, F)),
        rows('stack/mlp/in/gate', H * K + 2 * K + F, F, (D, F)),
        Tensor('stack/mlp/out/kernel', _LAYER + 'ff_out.2.weight', (F, D), np.transpose, np.transpose),
    ]


class TorchWeights:
    """The tensors of an open file; see `tensors.Weights`."""

    def __init__(self, found: Mapping[str, Any]):
        self._found = found
        self.shapes = {name: tuple(tensor.shape) for name, tensor in found.items() if not _UNUSED.fullmatch(name)}

    def read(self, name: str) -> np.ndarray:
        """Return one tensor in float32."""
        return self._found[name].float().numpy()
