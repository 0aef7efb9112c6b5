"""Published weights as a base: read tensor by tensor into place, written as a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from tqdm import tqdm

from palm_jax.data.marks import Marked
from palm_jax.data.vocabularies import HuggingFace
from palm_jax.errors import UserError
from palm_jax.exchange import cohere, hf_directory
from palm_jax.models.palm import PaLM
from palm_jax.partitioning import Layout
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


def from_hf(source: Path, model_dir: Path, dtype: str = 'float32', layout: Layout = Layout()) -> str:
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
    if (model_dir / 'checkpoints').exists():
        raise UserError(f'{model_dir} holds a run already. Name another directory.')
    arch = cohere.architecture(hf_directory.read_config(source), dtype)
    vocabulary = Marked(HuggingFace(str(source / 'tokenizer.json')))
    if vocabulary.size > arch.vocab_size:
        raise UserError(f'{source}: tokenizer.json has {vocabulary.size} ids, config.json {arch.vocab_size}.')
    mesh = layout.mesh()
    with jax.set_mesh(mesh), nn.logical_axis_rules(layout.rules):
        boxed = jax.eval_shape(lambda rng: init_params(PaLM(arch), rng), jax.random.key(0))
        layout.check(boxed, dict(mesh.shape))
        shardings, params = layout.shardings(boxed, mesh), {}
        with hf_directory.opened(source, arch) as read:
            for tensor in tqdm(cohere.tensors(arch), desc='reading', unit=' parameters'):
                sharding = _leaf(shardings, tensor.path)
                _put(params, tensor.path, hf_directory.stacked(read, tensor, arch, vocabulary, sharding))
    about = {'vocabulary': vocabulary.fingerprint, 'architecture': dataclasses.asdict(arch)}
    checkpoints = Checkpoints(model_dir / 'checkpoints', 1, about)
    checkpoints.save(TrainState(jnp.zeros((), jnp.int32), params, {}), 0)
    checkpoints.close()
    vocabulary.save(model_dir)
    length = hf_directory.read_config(source).get('max_position_embeddings', 2048)
    config = _CONFIG.format(model_dir=str(model_dir), length=length, size=arch.vocab_size)
    (model_dir / 'config.gin').write_text(config)
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
