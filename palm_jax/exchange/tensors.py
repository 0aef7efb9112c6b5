"""How parameters of this project correspond to the tensors of other formats: transposed, reshaped, permuted.

Some models rotate neighbouring dimensions of a head (2i, 2i + 1) where this project rotates its halves (i, i + K/2);
the last axis of their queries and keys is permuted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

ParamDtype: TypeAlias = Literal['float32', 'bfloat16', 'float16']


def interleave(x: np.ndarray) -> np.ndarray:
    """Permute the last axis from halves (i, i + K/2) to neighbouring pairs (2i, 2i + 1)."""
    return np.stack(np.split(x, 2, axis=-1), axis=-1).reshape(x.shape)


def deinterleave(x: np.ndarray) -> np.ndarray:
    """Permute the last axis from neighbouring pairs (2i, 2i + 1) to halves (i, i + K/2)."""
    return np.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The mapping of a parameter of this project to a tensor of another (or to one per layer).

    Attributes:
      path: path below `params`; parameters in `stack` have a leading layers axis.
      name: name of the tensor, with {} for the number of the layer.
      shape: shape of the parameter of one layer.
      export_layer: function from the parameter of one layer to its tensor.
      import_layer: function from the tensor of one layer to its parameter.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    export_layer: Callable[[np.ndarray], np.ndarray] = np.asarray
    import_layer: Callable[[np.ndarray], np.ndarray] = np.asarray

    @property
    def is_layered(self) -> bool:
        """Whether every layer has one."""
        return '{}' in self.name

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """Shape of the tensor of one layer."""
        return self.export_layer(np.broadcast_to(np.int8(0), self.shape)).shape


def transposed(path: str, name: str, *shape: int) -> Tensor:
    """Return the mapping of a matrix [inputs, outputs] to its transpose."""
    return Tensor(path, name, shape, np.transpose, np.transpose)


def heads(path: str, name: str, inputs: tuple[int, ...], count: int, size: int, interleaved: bool = False) -> Tensor:
    """Return the mapping of a map to heads, or of its bias, to a matrix or vector with all heads' outputs first.

    Args:
      path, name: see `Tensor`.
      inputs: (D,) for a kernel, () for a bias.
      count: number of heads.
      size: size of a head.
      interleaved: whether the tensor rotates neighbouring dimensions.
    """
    permute, permute_back = (interleave, deinterleave) if interleaved else (np.asarray, np.asarray)
    return Tensor(
        path,
        name,
        (*inputs, count, size),
        lambda x: permute(x).reshape(*inputs, count * size).T,
        lambda y: permute_back(y.T.reshape(*inputs, count, size)),
    )


def heads_out(path: str, name: str, count: int, size: int, outputs: int) -> Tensor:
    """Return the mapping of the map [H, K, D] from heads to a matrix [D, H·K]."""
    return Tensor(
        path,
        name,
        (count, size, outputs),
        lambda x: x.reshape(count * size, outputs).T,
        lambda y: y.T.reshape(count, size, outputs),
    )


def norm(path: str, name: str, size: int, offset: float = 0.0) -> Tensor:
    """Return the mapping of the scale of a norm, which is stored with `offset` subtracted."""
    if not offset:
        return Tensor(path, name, (size,))
    return Tensor(
        path, name, (size,), lambda x: x - np.asarray(offset, x.dtype), lambda y: np.asarray(y, np.float32) + offset
    )


def exported(params: Mapping[str, Any], mappings: Sequence[Tensor], num_layers: int) -> Iterator[tuple[str, Any]]:
    """Yield (name, array) of every tensor, one at a time."""
    for tensor in mappings:
        leaf: Any = params
        for key in tensor.path.split('/'):
            leaf = leaf[key]
        if not tensor.is_layered:
            yield tensor.name, np.ascontiguousarray(tensor.export_layer(np.asarray(leaf)))
            continue
        for number in range(num_layers):
            yield tensor.name.format(number), np.ascontiguousarray(tensor.export_layer(np.asarray(leaf[number])))


class Weights(Protocol):
    """The tensors of an open file or directory."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes by name, of the tensors that must match a parameter."""

    def read(self, name: str) -> np.ndarray:
        """Return one tensor."""
