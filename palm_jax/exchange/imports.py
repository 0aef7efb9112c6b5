"""Published weights as a base: read tensor by tensor into place, written as a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from tqdm import tqdm

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import HuggingFace
from palm_jax.errors import UserError
from palm_jax.exchange import cohere, hf_directory, palm_rlhf
from palm_jax.exchange.cohere import Tensor
from palm_jax.models.architecture import Architecture
from palm_jax.models.palm import PaLM
from palm_jax.partitioning import MeshLayout
from palm_jax.run_directory import RunDirectory
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.state import TrainState, init_params

# As what the base can be loaded, and trained on.
_CONFIG = """include 'gin/runs/pretrain.gin'
include 'gin/tasks/python_stdlib.gin'
include 'gin/models/pretrained.gin'
include 'gin/schedules/constant.gin'
include 'gin/optim/adafactor.gin'
include 'gin/mesh/fsdp.gin'
include 'gin/writers/local.gin'

INITIAL_CHECKPOINT_PATH = {model_dir!r}
MODEL_DIR = {model_dir!r}
VOCABULARY_SIZE = {size}
TASK_FEATURE_LENGTHS = {{'targets': {length}}}
TRAIN_STEPS = 1000
BATCH_SIZE = 8
LEARNING_RATE = 1e-3
"""


def from_hf(source: Path, model_dir: Path, dtype: str = 'float32', layout: MeshLayout = MeshLayout()) -> str:
    """A Transformers directory of the Cohere kind as a base for fine-tuning.

    Args:
      source: holds config.json, *.safetensors, tokenizer.json and tokenizer_config.json.
      model_dir: gets the checkpoint and the vocabulary.
      dtype: to keep the weights in.
      layout: the mesh on which they are assembled; no host holds what its devices do not.

    Returns:
      What was imported, in a line.

    Raises:
      UserError: another kind of model, or tensors that do not fit.
    """
    _refuse_run(model_dir)
    config = hf_directory.read_config(source)
    arch = cohere.architecture(config, dtype)
    vocabulary = _vocabulary(source / 'tokenizer.json', arch)
    with hf_directory.open_weights(source, arch) as read:
        params = _assembled(cohere.tensors(arch), read, arch, vocabulary, layout)
    return _keep(params, arch, vocabulary, config.get('max_position_embeddings', 2048), model_dir)


def from_palm_rlhf(
    source: Path,
    tokenizer: Path,
    model_dir: Path,
    dtype: str = 'float32',
    head_dim: int | None = None,
    length: int = 2048,
    layout: MeshLayout = MeshLayout(),
) -> str:
    """Weights of PaLM-rlhf-pytorch (conceptofmind/PaLM) as a base for fine-tuning.

    Args:
      source: the file of tensors.
      tokenizer: tokenizer.json beside its tokenizer_config.json: of conceptofmind's weights GPT-NeoX's.
      model_dir, dtype, layout: as of `from_hf`.
      head_dim: where the file does not tell.
      length: that the model was trained on.

    Returns:
      What was imported, in a line.

    Raises:
      UserError: another kind of file, or tensors that do not fit.
    """
    _refuse_run(model_dir)
    with palm_rlhf.open_weights(source) as found:
        arch = palm_rlhf.architecture(found, dtype, head_dim)
        tensors = palm_rlhf.tensors(arch, found)
        hf_directory.check(palm_rlhf.shapes(found), tensors, arch.num_layers, source)
        vocabulary = _vocabulary(tokenizer, arch)
        params = _assembled(tensors, palm_rlhf.reader(found), arch, vocabulary, layout)
    return _keep(params, arch, vocabulary, length, model_dir)


def _refuse_run(model_dir: Path) -> None:
    if RunDirectory(model_dir).checkpoints.exists():
        raise UserError(f'{model_dir} holds a run already. Name another directory.')


def _vocabulary(file: Path, arch: Architecture) -> ExtendedVocabulary:
    vocabulary = ExtendedVocabulary(HuggingFace(str(file)))
    if vocabulary.size > arch.vocab_size:
        raise UserError(f'{file} has {vocabulary.size} ids, the model {arch.vocab_size}.')
    return vocabulary


def _assembled(
    tensors: Sequence[Tensor], read: Any, arch: Architecture, vocabulary: ExtendedVocabulary, layout: MeshLayout
) -> Any:
    """The parameters, each read into its place on the mesh."""
    mesh = layout.mesh()
    with jax.set_mesh(mesh), nn.logical_axis_rules(layout.rules):
        boxed = jax.eval_shape(lambda rng: init_params(PaLM(arch), rng), jax.random.key(0))
        layout.check(boxed, dict(mesh.shape))
        shardings, params = layout.shardings(boxed, mesh), {}
        for tensor in tqdm(tensors, desc='reading', unit=' parameters'):
            sharding = _leaf(shardings, tensor.path)
            _put(params, tensor.path, hf_directory.stack_layers(read, tensor, arch, vocabulary, sharding))
    return params


def _keep(params: Any, arch: Architecture, vocabulary: ExtendedVocabulary, length: int, model_dir: Path) -> str:
    """Writes a run's directory at step 0."""
    metadata = CheckpointMetadata.of_model(arch, vocabulary.fingerprint)
    checkpoints = Checkpoints(RunDirectory(model_dir).checkpoints, 1, metadata)
    checkpoints.save(TrainState(jnp.zeros((), jnp.int32), params, {}), 0)
    checkpoints.close()
    vocabulary.save(model_dir)
    config = _CONFIG.format(model_dir=str(model_dir), length=length, size=arch.vocab_size)
    RunDirectory(model_dir).config.write_text(config)
    count = sum(x.size for x in jax.tree.leaves(params))
    return f'imported   {count:,} parameters, vocabulary {vocabulary.fingerprint}, to {model_dir}'


def _leaf(tree: Any, path: str) -> Any:
    for key in path.split('/'):
        tree = tree[key]
    return jax.tree.leaves(tree)[0]


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *folders, name = path.split('/')
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[name] = value
