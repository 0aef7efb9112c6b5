"""Published weights as a base: read tensor by tensor onto the mesh, and written as a run with one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from tqdm import tqdm

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.configuration.compose import compose
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import HuggingFace
from palm_jax.errors import UserError
from palm_jax.exchange import cohere, hf_directory, palm_rlhf
from palm_jax.exchange.cohere import ParamDtype, Tensor
from palm_jax.models.architecture import Architecture
from palm_jax.models.palm import PaLM
from palm_jax.partitioning import MeshLayout
from palm_jax.run_directory import RunDirectory, write_whole
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.saving import kept_files
from palm_jax.training.state import TrainState, init_params


def from_hf(source: Path, model_dir: Path, dtype: ParamDtype = 'float32', layout: MeshLayout = MeshLayout()) -> str:
    """Imports a Transformers directory of a Cohere-type model as a base for fine-tuning.

    Args:
      source: directory with config.json, *.safetensors, tokenizer.json and tokenizer_config.json.
      model_dir: MODEL_DIR to create, with a checkpoint, the vocabulary and a configuration.
      dtype: type in which the weights are stored.
      layout: mesh on which the weights are assembled; a host holds only what its devices hold.

    Returns:
      A line that says what was imported.

    Raises:
      UserError: the directory holds another type of model or tensors that do not fit, or `model_dir` holds a run.
    """
    run = _new_run(model_dir)
    config = hf_directory.read_config(source)
    arch = cohere.architecture(config, dtype)
    vocabulary = _vocabulary(source / 'tokenizer.json', arch)
    with hf_directory.open_weights(source, arch) as read:
        params = _assemble(cohere.tensors(arch), read, arch, vocabulary, layout)
    return _write_run(params, arch, vocabulary, config.get('max_position_embeddings', 2048), run)


def from_palm_rlhf(
    source: Path,
    tokenizer: Path,
    model_dir: Path,
    dtype: ParamDtype = 'float32',
    head_dim: int | None = None,
    length: int = 2048,
    layout: MeshLayout = MeshLayout(),
) -> str:
    """Imports weights of PaLM-rlhf-pytorch (conceptofmind/PaLM) as a base for fine-tuning.

    Args:
      source: file of tensors.
      tokenizer: tokenizer.json, with tokenizer_config.json in the same folder; conceptofmind's weights use GPT-NeoX's.
      model_dir: MODEL_DIR to create, with a checkpoint, the vocabulary and a configuration.
      dtype: type in which the weights are stored.
      head_dim: size of an attention head, where the file does not determine it.
      length: sequence length in tokens that the model was trained on.
      layout: mesh on which the weights are assembled; a host holds only what its devices hold.

    Returns:
      A line that says what was imported.

    Raises:
      UserError: the file holds something else or tensors that do not fit, or `model_dir` holds a run.
    """
    run = _new_run(model_dir)
    with palm_rlhf.open_weights(source) as found:
        arch = palm_rlhf.architecture(found, dtype, head_dim)
        tensors = palm_rlhf.tensors(arch, found)
        hf_directory.check(palm_rlhf.shapes(found), tensors, arch.num_layers, source)
        vocabulary = _vocabulary(tokenizer, arch)
        params = _assemble(tensors, palm_rlhf.reader(found), arch, vocabulary, layout)
    return _write_run(params, arch, vocabulary, length, run)


def _new_run(model_dir: Path) -> RunDirectory:
    run = RunDirectory(model_dir)
    if run.checkpoints.exists():
        raise UserError(f'{run} holds a run already. Name another directory.')
    return run


def _vocabulary(file: Path, arch: Architecture) -> ExtendedVocabulary:
    vocabulary = ExtendedVocabulary(HuggingFace(str(file)))
    if vocabulary.size > arch.vocab_size:
        raise UserError(f'{file} has {vocabulary.size} ids, the model {arch.vocab_size}.')
    return vocabulary


def _assemble(
    tensors: Sequence[Tensor], read: Any, arch: Architecture, vocabulary: ExtendedVocabulary, layout: MeshLayout
) -> Any:
    """Reads every parameter directly into its shards on the mesh."""
    mesh = layout.mesh()
    with jax.set_mesh(mesh), nn.logical_axis_rules(layout.rules):
        boxed = jax.eval_shape(lambda rng: init_params(PaLM(arch), rng), jax.random.key(0))
        layout.check(boxed, dict(mesh.shape))
        shardings = layout.shardings(boxed, mesh)
        params: dict[str, Any] = {}
        for tensor in tqdm(tensors, desc='reading', unit=' parameters'):
            sharding = _leaf(shardings, tensor.path)
            _put(params, tensor.path, hf_directory.stack_layers(read, tensor, arch, vocabulary, sharding))
    return params


def _write_run(params: Any, arch: Architecture, vocabulary: ExtendedVocabulary, length: int, run: RunDirectory) -> str:
    """Writes a run with one checkpoint at step 0, and returns a line about it."""
    metadata = CheckpointMetadata.of_model(arch, vocabulary.fingerprint)
    bindings = {
        'MODEL_DIR': str(run),
        'INITIAL_CHECKPOINT_PATH': str(run),
        'VOCABULARY_SIZE': arch.vocab_size,
        'TASK_FEATURE_LENGTHS': {'targets': length},
    }
    config = compose(['gin/runs/imported.gin'], bindings)
    checkpoints = Checkpoints(run.checkpoints, 1, metadata, files=kept_files(config, vocabulary))
    checkpoints.save(TrainState(jnp.zeros((), jnp.int32), params, {}), 0)
    checkpoints.close()
    vocabulary.save(run.path)
    write_whole(run.config, config)
    count = sum(x.size for x in jax.tree.leaves(params))
    return f'imported   {count:,} parameters, vocabulary {vocabulary.fingerprint}, to {run}'


def _leaf(tree: Any, path: str) -> Any:
    for key in path.split('/'):
        tree = tree[key]
    return jax.tree.leaves(tree)[0]


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *folders, name = path.split('/')
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[name] = value
