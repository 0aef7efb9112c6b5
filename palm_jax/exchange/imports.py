"""Published weights as a base: read tensor by tensor onto the mesh, and written as a run with one checkpoint."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.configuration.compose import compose
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import HuggingFace
from palm_jax.errors import UserError
from palm_jax.exchange import gguf_tokenizer, hf_config, hf_directory, palm_rlhf
from palm_jax.exchange.families import family_of
from palm_jax.exchange.gguf_file import GgufFile
from palm_jax.exchange.tensors import ParamDtype, Tensor, Weights
from palm_jax.models.architecture import Architecture
from palm_jax.models.palm import PaLM
from palm_jax.partitioning import MeshLayout
from palm_jax.run_directory import RunDirectory, write_whole
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.saving import kept_files
from palm_jax.training.state import TrainState, init_params

_EMBEDDING, _OUTPUT = 'model.embed_tokens.weight', 'lm_head.weight'


def from_hf(source: Path, model_dir: Path, dtype: ParamDtype = 'float32', layout: MeshLayout = MeshLayout()) -> str:
    """Import a Transformers directory as a base for fine-tuning; see `families` for the models.

    Args:
      source: directory with config.json, *.safetensors, tokenizer.json and tokenizer_config.json.
      model_dir: MODEL_DIR to create, with a checkpoint, the vocabulary and a configuration.
      dtype: type in which the weights are stored.
      layout: mesh on which the weights are assembled; a host holds only what its devices hold.

    Returns:
      Lines that say what was imported, and how its logits compare with those of Transformers.

    Raises:
      UserError: the directory holds another type of model or tensors that do not fit, or `model_dir` holds a run.
    """
    run = _new_run(model_dir)
    config = hf_config.read(source)
    arch, length = hf_config.architecture(config, dtype), hf_config.context_length(config)
    vocabulary = _vocabulary(source / 'tokenizer.json', arch)
    with hf_directory.open_weights(source) as weights:
        is_shared = hf_directory.shares_embedding(arch.shared_embedding, weights, _OUTPUT, _EMBEDDING)
        arch = dataclasses.replace(arch, shared_embedding=is_shared)
        mappings = family_of(config['model_type']).tensors(arch)
        hf_directory.check(weights.shapes, mappings, arch.num_layers, source, [_OUTPUT] if is_shared else [])
        params = _assemble(mappings, weights, arch, vocabulary, layout)

    def theirs(transformers: Any, torch: Any) -> Any:
        settings = transformers.AutoConfig.from_pretrained(source)
        if not hf_config.states_theta(config):  # its default changed from one version to another
            settings.rope_parameters = {**settings.rope_parameters, 'rope_theta': arch.rope_theta}
        return transformers.AutoModelForCausalLM.from_pretrained(source, config=settings, dtype=torch.float32)

    compared = _compare_with_transformers(theirs, source, params, arch, vocabulary, length)
    return f'{_write_run(params, arch, vocabulary, length, run)}\n{compared}'


def from_gguf(source: Path, model_dir: Path, dtype: ParamDtype = 'float32', layout: MeshLayout = MeshLayout()) -> str:
    """Import a GGUF file as a base for fine-tuning: its tensors dequantized, and its own tokenizer.

    Args:
      source: .gguf file of a model of a family in `families`.
      model_dir: MODEL_DIR to create, with a checkpoint, the vocabulary and a configuration.
      dtype: type in which the weights are stored.
      layout: mesh on which the weights are assembled; a host holds only what its devices hold.

    Returns:
      Lines that say what was imported, and how its logits compare with those of Transformers.

    Raises:
      UserError: the file is cut or holds another type of model, or `model_dir` holds a run.
    """
    run = _new_run(model_dir)
    file = GgufFile(source)
    config = file.config()
    arch, length = hf_config.architecture(config, dtype), hf_config.context_length(config)
    mappings = file.tensors(arch)
    hf_directory.check(file.shapes, mappings, arch.num_layers, source)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Path(folder) / RunDirectory(Path(folder)).tokenizers_vocabulary.name
        tokenizer.write_text(json.dumps(gguf_tokenizer.content(file)), encoding='utf-8')
        vocabulary = _vocabulary(tokenizer, arch)
        params = _assemble(mappings, file, arch, vocabulary, layout)

        def theirs(transformers: Any, torch: Any) -> Any:
            where = {'pretrained_model_name_or_path': source.parent, 'gguf_file': source.name}
            settings = transformers.AutoConfig.from_pretrained(**where)
            if 'rope_scaling' in config:  # which it does not read
                settings.rope_parameters = config['rope_scaling'] | {'rope_theta': arch.rope_theta}
            return transformers.AutoModelForCausalLM.from_pretrained(**where, config=settings, dtype=torch.float32)

        compared = _compare_with_transformers(theirs, source, params, arch, vocabulary, length)
        return f'{_write_run(params, arch, vocabulary, length, run)}\n{compared}'


def _compare_with_transformers(
    open_theirs: Callable[[Any, Any], Any],
    source: Path,
    params: Any,
    arch: Architecture,
    vocabulary: ExtendedVocabulary,
    length: int,
) -> str:
    """Return a line about the logits here and there.

    Args:
      open_theirs: function of the modules (transformers, torch) that opens the same weights as a causal language model.
      source: what was imported.
      params: its parameters here.
      arch: its architecture here.
      vocabulary: its vocabulary here.
      length: its context length in tokens.

    Raises:
      UserError: if they differ.
    """
    try:
        import torch
        import transformers
    except ImportError:
        return f'logits     not compared: Transformers is not installed ({hf_directory.NEEDS})'
    version = f'Transformers {transformers.__version__}'
    try:
        theirs = open_theirs(transformers, torch).eval()
        theirs(torch.zeros((1, 2), dtype=torch.int64))  # some configurations are opened, but do not run
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return f'logits     not compared: {version} does not run {source} ({reason})'
    with torch.no_grad():
        for parameter in theirs.parameters():  # rounded as the weights here
            parameter.copy_(parameter.to(getattr(torch, arch.param_dtype)))
    permutation = hf_directory.token_id_permutation(vocabulary, arch)
    found = hf_directory.compare_logits(theirs, params, arch, permutation, length)
    if not (found.agree or (arch.param_dtype != 'float32' and found.difference <= 0.05 * found.largest)):
        raise UserError(f'{source}: logits {found} from those of {version}; nothing was imported.')
    return f'logits     {found} over {found.num_tokens} random tokens ({version})'


def from_palm_rlhf(
    source: Path,
    tokenizer: Path,
    model_dir: Path,
    dtype: ParamDtype = 'float32',
    head_dim: int | None = None,
    length: int = 2048,
    layout: MeshLayout = MeshLayout(),
) -> str:
    """Import weights of PaLM-rlhf-pytorch (conceptofmind/PaLM) as a base for fine-tuning.

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
        weights = palm_rlhf.TorchWeights(found)
        hf_directory.check(weights.shapes, tensors, arch.num_layers, source)
        vocabulary = _vocabulary(tokenizer, arch)
        params = _assemble(tensors, weights, arch, vocabulary, layout)
    return _write_run(params, arch, vocabulary, length, run)


def _new_run(model_dir: Path) -> RunDirectory:
    run = RunDirectory(model_dir)
    for path in (model_dir, *model_dir.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f'{path} is a file, not a directory. Name a new directory for the run.')
    if run.checkpoints.exists():
        raise UserError(f'{run} holds a run already. Name another directory.')
    return run


def _vocabulary(file: Path, arch: Architecture) -> ExtendedVocabulary:
    if not file.is_file():
        raise UserError(
            f'{file.parent} has no {file.name}. Transformers writes one: '
            f"AutoTokenizer.from_pretrained('{file.parent}').save_pretrained('{file.parent}')"
        )
    vocabulary = ExtendedVocabulary(HuggingFace(str(file), of_base=True))
    try:
        vocabulary.encode('')
        size = vocabulary.size
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{file} is not a valid tokenizer.json ({type(error).__name__}: {error}).') from None
    if size > arch.vocab_size:
        raise UserError(f'{file} has {vocabulary.size} ids, the model {arch.vocab_size}.')
    return vocabulary


def _assemble(
    tensors: Sequence[Tensor],
    weights: Weights,
    arch: Architecture,
    vocabulary: ExtendedVocabulary,
    layout: MeshLayout,
) -> Any:
    """Read every parameter directly into its shards on the mesh."""
    mesh = layout.mesh()
    with layout.on(mesh):
        boxed = jax.eval_shape(lambda rng: init_params(PaLM(arch), rng), jax.random.key(0))
        layout.check(boxed, dict(mesh.shape))
        shardings = layout.shardings(boxed, mesh)
        params: dict[str, Any] = {}
        for tensor in tqdm(tensors, desc='reading', unit=' parameters'):
            sharding = _leaf(shardings, tensor.path)
            _put(params, tensor.path, hf_directory.stack_layers(weights, tensor, arch, vocabulary, sharding))
    return params


def _write_run(params: Any, arch: Architecture, vocabulary: ExtendedVocabulary, length: int, run: RunDirectory) -> str:
    """Write a run with one checkpoint at step 0, and return a line about it."""
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
