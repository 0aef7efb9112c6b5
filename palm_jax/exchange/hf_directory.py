"""Directories for Transformers, written and read: config.json, safetensors, tokenizer."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from tqdm import tqdm

from palm_jax.data.registry import stdlib
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.errors import UserError
from palm_jax.exchange import hf_config, hf_tokenizer
from palm_jax.exchange.directories import apply_umask, prepare
from palm_jax.exchange.families import family_for
from palm_jax.exchange.tensors import Tensor, Weights, exported
from palm_jax.models.architecture import Architecture
from palm_jax.models.palm import PaLM
from palm_jax.special_ids import BOS_ID, EOS_ID

NEEDS = 'pip install "palm_jax[hf]"'
_BY_TOKEN = ('embed/embedding', 'embed/output')  # parameters with a row for each token
_UNUSED = re.compile(r'.*rotary_emb\.inv_freq')  # computed from config.json
_INDEX = 'model.safetensors.index.json'
DTYPES = {'float32': np.float32, 'bfloat16': ml_dtypes.bfloat16, 'float16': np.float16}


@dataclasses.dataclass(frozen=True)
class HeadExport:
    """How a head is written to a directory for Transformers.

    Attributes:
      tensors: mappings of its parameters.
      config: keys of config.json that differ from those of a causal language model.
      template: how a text becomes tokens, see `hf_tokenizer.write`.
      files: further files with their text, by name.
      command: Python expression that opens the directory, with {} for its path.
      reason: why there is code among the files; empty where there is none.
    """

    tensors: Sequence[Tensor]
    config: Mapping[str, Any]
    template: hf_tokenizer.Template
    files: Mapping[str, str]
    command: str
    reason: str = ''


def write(
    params: Any, arch: Architecture, vocabulary: ExtendedVocabulary, length: int, directory: Path,
    dtype: str = 'float32', shard_bytes: int = 4 << 30, head: HeadExport | None = None,
) -> None:  # fmt: skip
    """Write a model for Transformers; weights in shards, of which one is in memory at a time.

    Args:
      params: parameters of a model without methods.
      arch: architecture of the model.
      vocabulary: vocabulary, written as tokenizer.json.
      length: context length that the model was trained on.
      directory: new or empty directory.
      dtype: type of the tensors.
      shard_bytes: maximum size of a file.
      head: how the head is written; None leaves it out and writes a causal language model.

    Raises:
      UserError: if the directory is not empty, or Transformers has no model of this architecture.
    """
    from safetensors.numpy import save_file

    prepare(directory)
    permutation = token_id_permutation(vocabulary, arch)
    start, end = int(permutation[BOS_ID]), int(permutation[EOS_ID])
    prefix = start if vocabulary.prefix_id == EOS_ID else int(permutation[vocabulary.prefix_id])
    config = hf_config.config(arch, length, dtype, bos_token_id=prefix, eos_token_id=end, pad_token_id=start)
    by_token = {name: np.asarray(matrix)[np.argsort(permutation)] for name, matrix in params['embed'].items()}
    params = {**params, 'embed': by_token}
    mappings = family_for(arch).tensors(arch)
    if head is not None:
        mappings = [tensor for tensor in mappings if tensor.path != 'embed/output'] + list(head.tensors)
        config |= head.config
    count = sum(arch.num_layers if t.is_layered else 1 for t in mappings)
    files: list[Path] = []
    shard_of: dict[str, int] = {}
    total = 0
    arrays = ((name, array.astype(DTYPES[dtype])) for name, array in exported(params, mappings, arch.num_layers))
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
        (directory / _INDEX).write_text(json.dumps(index, indent=2) + '\n', encoding='utf-8')
    (directory / 'config.json').write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')
    generation = {name: config[name] for name in ('bos_token_id', 'eos_token_id', 'pad_token_id')}
    (directory / 'generation_config.json').write_text(json.dumps(generation, indent=2) + '\n', encoding='utf-8')
    hf_tokenizer.write(vocabulary, directory, length, None if head is None else head.template)
    for name, text in ({} if head is None else head.files).items():
        (directory / name).write_text(text, encoding='utf-8')
    apply_umask(directory)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Logits of random tokens, here and there.

    Attributes:
      difference: largest difference.
      largest: largest absolute value.
      num_tokens: number of tokens.
    """

    difference: float
    largest: float
    num_tokens: int

    @property
    def agree(self) -> bool:
        """Whether the logits are equal but for rounding."""
        return self.difference <= 1e-4 * self.largest

    def __str__(self) -> str:
        return f'differ by at most {self.difference:.2e} of {self.largest:.3g}'


def compare_logits(theirs: Any, params: Any, arch: Architecture, permutation: np.ndarray, length: int) -> Comparison:
    """Compare the logits of random tokens with those of a model of Transformers.

    Args:
      theirs: causal language model of Transformers in float32.
      params: parameters of ours without a head, computed with in float32.
      arch: architecture of ours.
      permutation: result of `token_id_permutation`.
      length: context length in tokens.
    """
    import torch

    tokens = np.random.default_rng(0).integers(0, arch.vocab_size, (4, min(length, 128)))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(permutation[tokens])).logits.float().numpy()[..., permutation]
    model = PaLM(dataclasses.replace(arch, dtype='float32'))
    logits = np.asarray(jax.jit(model.apply)({'params': params}, tokens.astype(np.int32)))
    return Comparison(float(np.abs(logits - expected).max()), float(np.abs(expected).max()), tokens.size)


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
    stored = hf_config.read(directory)['dtype']
    params = {name: tree for name, tree in params.items() if name != 'head'}
    params = jax.tree.map(lambda x: np.asarray(x).astype(DTYPES[stored]), params)
    logits = compare_logits(theirs, params, arch, token_id_permutation(vocabulary, arch), length)
    if not logits.agree:
        raise UserError(f'{directory}: logits {logits}; do not use it.')
    texts = [e['text'][:2000] for e, _ in zip(stdlib.examples('validation'), range(100), strict=False)]
    if wrong := hf_tokenizer.differences(vocabulary, directory, texts):
        raise UserError(f'{directory}: tokenizer.json encodes {len(wrong)} of {len(texts)} texts differently.')
    return (
        f'logits     {logits} over {logits.num_tokens} random tokens (Transformers {transformers.__version__})\n'
        f'tokenizer  encodes and decodes {len(texts)} texts identically'
    )


class Safetensors:
    """The tensors of a directory's safetensors files, which are read one at a time.

    Attributes:
      shapes: shape of every tensor that a parameter may be mapped to, by name.
    """

    def __init__(self, files: Mapping[str, Any]):
        """`files` has the open file of every tensor by its name."""
        self._files = {name: file for name, file in files.items() if not _UNUSED.fullmatch(name)}
        self.shapes = {name: tuple(file.get_slice(name).get_shape()) for name, file in self._files.items()}

    def read(self, name: str) -> np.ndarray:
        """Return one tensor."""
        return np.asarray(self._files[name].get_tensor(name))

    def other_types(self) -> list[str]:
        """Return the tensors that are not floating-point numbers, with their types."""
        types = {name: file.get_slice(name).get_dtype() for name, file in self._files.items()}
        return [f'{name} ({kind})' for name, kind in types.items() if not kind.startswith(('F', 'BF'))]


@contextlib.contextmanager
def open_weights(directory: Path) -> Iterator[Safetensors]:
    """Open the safetensors files of a directory, whole or in shards.

    Raises:
      UserError: if files are missing or invalid, or hold quantized weights.
    """
    from safetensors import safe_open

    with contextlib.ExitStack() as stack:
        file_of: dict[str, Any] = {}
        for path in _weight_files(directory):
            try:
                file = stack.enter_context(safe_open(path, framework='flax'))
            except Exception as error:
                raise UserError(f'{path}: truncated or invalid safetensors file ({error}).') from None
            file_of |= dict.fromkeys(file.keys(), file)
        weights = Safetensors(file_of)
        if others := weights.other_types():
            raise UserError(
                f'{directory} holds quantized weights: {", ".join(others[:3])}{" ..." if len(others) > 3 else ""}. '
                'Import the model in float32, bfloat16 or float16, or a GGUF file of it.'
            )
        yield weights


def _weight_files(directory: Path) -> list[Path]:
    """Return the files that the index names; without an index, model.safetensors or whatever there is."""
    index, single = directory / _INDEX, directory / 'model.safetensors'
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding='utf-8'))['weight_map'].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f'{index} is cut or not an index of shards. Copy or download it again.') from None
        if missing := [name for name in names if not (directory / name).is_file()]:
            raise UserError(f'{directory} lacks {", ".join(missing)}, which {_INDEX} names. Copy or download the rest.')
        return [directory / name for name in names]
    files = [single] if single.is_file() else sorted(directory.glob('*.safetensors'))
    if not files:
        pickled = sorted(path.name for path in (*directory.glob('*.bin'), *directory.glob('*.pt')))
        advice = f' It has {pickled[0]}: save the model again with save_pretrained of Transformers.' if pickled else ''
        raise UserError(f'{directory} has no .safetensors files.{advice}')
    return files


def shares_embedding(stated: bool, weights: Weights, output: str, embedding: str) -> bool:
    """Return whether the logits of a file use its embedding.

    Args:
      stated: what config.json says.
      weights: tensors of the file.
      output: name of the output matrix.
      embedding: name of the embedding.
    """
    if not stated or output not in weights.shapes or embedding not in weights.shapes:
        return stated
    if weights.shapes[output] != weights.shapes[embedding]:
        return False  # reported as a mismatch
    return np.array_equal(weights.read(output), weights.read(embedding))


def check(
    found: Mapping[str, tuple[int, ...]],
    tensors: Iterable[Tensor],
    num_layers: int,
    source: Path,
    ignored: Sequence[str] = (),
) -> None:
    """Raise a UserError with a table of the tensors that do not match; `ignored` may be there or not."""
    expected = {
        tensor.name.format(number): tensor.tensor_shape
        for tensor in tensors
        for number in (range(num_layers) if tensor.is_layered else (0,))
    }
    rows: list[tuple[str, Any, Any]] = [
        (name, 'missing', shape) for name, shape in expected.items() if name not in found
    ]
    rows += [(name, found[name], shape) for name, shape in expected.items() if found.get(name, shape) != shape]
    rows += [(name, shape, 'no such tensor') for name, shape in found.items() if name not in {*expected, *ignored}]
    if rows:
        width = max(len(name) for name, _, _ in rows)
        table = '\n'.join(f'  {name:<{width}}  {actual!s:<16}  {wanted}' for name, actual, wanted in rows[:40])
        more = f'\n  ... {len(rows) - 40} more' if len(rows) > 40 else ''
        raise UserError(
            f'{len(rows)} tensors of {source} do not match:\n'
            f'  {"tensor":<{width}}  {"found":<16}  expected\n{table}{more}'
        )


def stack_layers(
    weights: Weights,
    tensor: Tensor,
    arch: Architecture,
    vocabulary: ExtendedVocabulary,
    sharding: jax.sharding.Sharding,
) -> jax.Array:
    """Create a sharded parameter layer by layer; no host holds more of it than its devices do."""
    layers = (arch.num_layers,) if tensor.is_layered else ()
    dtype = DTYPES[arch.param_dtype]

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # every device holds a part
        if tensor.path in _BY_TOKEN:
            return weights.read(tensor.name)[token_id_permutation(vocabulary, arch)][index].astype(dtype)
        if not layers:
            return tensor.import_layer(weights.read(tensor.name))[index].astype(dtype)
        names = [tensor.name.format(number) for number in range(*index[0].indices(arch.num_layers))]
        return np.stack([tensor.import_layer(weights.read(name))[index[1:]].astype(dtype) for name in names])

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
