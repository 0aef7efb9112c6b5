"""Directories for Transformers, written and read: config.json, safetensors, tokenizer."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from tqdm import tqdm

from palm_jax.data.registry import stdlib
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.errors import UserError
from palm_jax.exchange import cohere, hf_tokenizer
from palm_jax.exchange.cohere import Tensor
from palm_jax.models.architecture import Architecture
from palm_jax.models.palm import PaLM
from palm_jax.special_ids import BOS_ID, EOS_ID

NEEDS = 'pip install "palm_jax[hf]"'
_INDEX = 'model.safetensors.index.json'
_DTYPES = {'float32': np.float32, 'bfloat16': ml_dtypes.bfloat16, 'float16': np.float16}


def write(
    params: Any, arch: Architecture, vocabulary: ExtendedVocabulary, length: int, directory: Path,
    dtype: str = 'float32', shard_bytes: int = 4 << 30,
) -> None:  # fmt: skip
    """Write a model for Transformers; weights in shards, of which one is in memory at a time.

    Args:
      params: parameters of a model without methods; a head is left out.
      arch: architecture of the model.
      vocabulary: vocabulary, written as tokenizer.json.
      length: context length that the model was trained on.
      directory: new or empty directory.
      dtype: type of the tensors.
      shard_bytes: maximum size of a file.

    Raises:
      UserError: if the directory is not empty, or Cohere does not support the architecture.
    """
    from safetensors.numpy import save_file

    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise UserError(f'{directory} is not empty. Name another directory.')
    permutation = token_id_permutation(vocabulary, arch)
    start, end = int(permutation[BOS_ID]), int(permutation[EOS_ID])
    config = cohere.config(arch, length, dtype, bos_token_id=start, eos_token_id=end, pad_token_id=start)
    embedding = np.asarray(params['embed']['embedding'])[np.argsort(permutation)]
    params = {**params, 'embed': {'embedding': embedding}}
    count = sum(arch.num_layers if t.is_layered else 1 for t in cohere.tensors(arch))
    files: list[Path] = []
    shard_of: dict[str, int] = {}
    total = 0
    arrays = ((name, array.astype(_DTYPES[dtype])) for name, array in cohere.to_cohere(params, arch))
    with tqdm(arrays, total=count, desc='writing', unit=' tensors') as progress:
        for shard in _shards(progress, shard_bytes):
            files.append(directory / f'part-{len(files)}')
            save_file(shard, files[-1], metadata={'format': 'pt'})
            shard_of |= dict.fromkeys(shard, len(files))
            total += sum(array.nbytes for array in shard.values())
    names = [f'model-{i:05}-of-{len(files):05}.safetensors' for i in range(1, len(files) + 1)]
    names = names if len(files) > 1 else ['model.safetensors']
    for file, name in zip(files, names, strict=True):
        file.rename(directory / name)
    if len(files) > 1:
        index = {'metadata': {'total_size': total}, 'weight_map': {k: names[v - 1] for k, v in shard_of.items()}}
        (directory / _INDEX).write_text(json.dumps(index, indent=2) + '\n')
    (directory / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
    generation = {name: config[name] for name in ('bos_token_id', 'eos_token_id', 'pad_token_id')}
    (directory / 'generation_config.json').write_text(json.dumps(generation, indent=2) + '\n')
    hf_tokenizer.write(vocabulary, directory, length)


def verify(directory: Path, params: Any, arch: Architecture, vocabulary: ExtendedVocabulary, length: int) -> str:
    """Compare logits of random tokens and ids of real texts with those of Transformers.

    Returns:
      One or two lines that describe the comparison.

    Raises:
      UserError: if Transformers is not installed, or anything differs.
    """
    try:
        import torch
        import transformers
    except ImportError:
        raise UserError(f'{directory} was written, but Transformers is not installed to verify it: {NEEDS}') from None

    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokens = np.random.default_rng(0).integers(0, arch.vocab_size, (4, min(length, 128)))
    with torch.no_grad():
        permutation = token_id_permutation(vocabulary, arch)
        expected = theirs(torch.from_numpy(permutation[tokens])).logits.numpy()[..., permutation]
    stored = _DTYPES[json.loads((directory / 'config.json').read_text())['dtype']]
    model = PaLM(dataclasses.replace(arch, dtype='float32'))
    params = jax.tree.map(
        lambda x: np.asarray(x).astype(stored).astype(np.float32), {k: v for k, v in params.items() if k != 'head'}
    )
    logits = np.asarray(jax.jit(model.apply)({'params': params}, tokens.astype(np.int32)))
    difference, largest = np.abs(logits - expected).max(), np.abs(expected).max()
    if not difference <= 1e-4 * largest:
        raise UserError(f'{directory}: logits differ by {difference:.2e} of {largest:.3g}; do not use it.')
    texts = [e['text'][:2000] for e, _ in zip(stdlib.examples('validation'), range(100), strict=False)]
    if wrong := hf_tokenizer.differences(vocabulary, directory, texts):
        raise UserError(f'{directory}: tokenizer.json encodes {len(wrong)} of {len(texts)} texts differently.')
    return (
        f'logits     differ by at most {difference:.2e} of {largest:.3g} over {tokens.size} random tokens '
        f'(Transformers {transformers.__version__})\ntokenizer  encodes and decodes {len(texts)} texts identically'
    )


def read_config(directory: Path) -> dict[str, Any]:
    """Return the content of a directory's config.json."""
    file = directory / 'config.json'
    if not file.is_file():
        raise UserError(f'{directory} has no config.json; name the directory of a Transformers model.')
    return json.loads(file.read_text())


@contextlib.contextmanager
def open_weights(directory: Path, arch: Architecture) -> Iterator[Any]:
    """Open a directory's weights, checked to be complete, as a function from (tensor, layer) to an array.

    Raises:
      UserError: if tensors are missing, unexpected or of another shape; the message has a table of them.
    """
    from safetensors import safe_open

    files = sorted(directory.glob('*.safetensors'))
    if not files:
        raise UserError(f'{directory} has no .safetensors files.')
    with contextlib.ExitStack() as stack:
        file_of: dict[str, Any] = {}
        for path in files:
            try:
                file = stack.enter_context(safe_open(path, framework='flax'))
            except Exception as error:
                raise UserError(f'{path}: truncated or invalid safetensors file ({error}).') from None
            file_of |= dict.fromkeys(file.keys(), file)
        found = {name: tuple(file.get_slice(name).get_shape()) for name, file in file_of.items()}
        check(found, cohere.tensors(arch), arch.num_layers, directory)
        yield lambda tensor, number: file_of[tensor.name.format(number)].get_tensor(tensor.name.format(number))


def check(found: dict[str, tuple[int, ...]], tensors: Iterable[Tensor], num_layers: int, source: Path) -> None:
    """Raise a UserError with a table of the tensors that do not match."""
    expected = {
        tensor.name.format(number): tensor.tensor_shape
        for tensor in tensors
        for number in (range(num_layers) if tensor.is_layered else (0,))
    }
    tied = {'lm_head.weight'}  # the embedding again
    rows: list[tuple[str, Any, Any]] = [
        (name, 'missing', shape) for name, shape in expected.items() if name not in found
    ]
    rows += [(name, found[name], shape) for name, shape in expected.items() if found.get(name, shape) != shape]
    rows += [(name, shape, 'no such tensor') for name, shape in found.items() if name not in {*expected, *tied}]
    if rows:
        width = max(len(name) for name, _, _ in rows)
        table = '\n'.join(f'  {name:<{width}}  {actual!s:<16}  {wanted}' for name, actual, wanted in rows[:40])
        more = f'\n  ... {len(rows) - 40} more' if len(rows) > 40 else ''
        raise UserError(
            f'{len(rows)} tensors of {source} do not match:\n'
            f'  {"tensor":<{width}}  {"found":<16}  expected\n{table}{more}'
        )


def stack_layers(
    read: Any, tensor: Tensor, arch: Architecture, vocabulary: ExtendedVocabulary, sharding: jax.sharding.Sharding
) -> jax.Array:
    """Create a sharded parameter layer by layer; no host holds more of it than its devices do."""
    is_embedding = tensor.path == 'embed/embedding'
    layers = (arch.num_layers,) if tensor.is_layered else ()
    dtype = _DTYPES[arch.param_dtype]

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # every device holds a part
        if is_embedding:
            return np.asarray(read(tensor, 0))[token_id_permutation(vocabulary, arch)][index].astype(dtype)
        if not layers:
            return tensor.import_layer(np.asarray(read(tensor, 0)))[index].astype(dtype)
        numbers = range(*index[0].indices(arch.num_layers))
        return np.stack([tensor.import_layer(np.asarray(read(tensor, n)))[index[1:]].astype(dtype) for n in numbers])

    return jax.make_array_from_callback((*layers, *tensor.shape), sharding, part)


def token_id_permutation(vocabulary: ExtendedVocabulary, arch: Architecture) -> np.ndarray:
    """Return int64 [V]: the id in tokenizer.json of every id here, which is its row in the exported embedding."""
    known = hf_tokenizer.original_ids(vocabulary)
    return np.r_[known, np.arange(len(known), arch.vocab_size)]


def _shards(arrays: Iterable[tuple[str, np.ndarray]], size: int) -> Iterator[dict[str, np.ndarray]]:
    shard: dict[str, np.ndarray] = {}
    for name, array in arrays:
        if shard and sum(a.nbytes for a in shard.values()) + array.nbytes > size:
            yield shard
            shard = {}
        shard[name] = array
    if shard:
        yield shard
