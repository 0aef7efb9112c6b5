"""The parameter trees that checkpoints depend on; `python -m tests.support.goldens` writes them to tests/goldens.

Paths, shapes, dtypes and logical axes of every size, head, fine-tuning method and architecture variant, and the
state of every optimizer, all computed from shapes alone. A change to one of these files is a change to the
checkpoint format: checkpoints written before it no longer open.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from palm_jax.configuration.load import load
from palm_jax.parameters import path_name
from palm_jax.training.setup import adapt_from_arguments
from palm_jax.training.state import init_params, init_state

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / 'tests' / 'goldens' / 'parameters'
MICRO = {'VOCABULARY_SIZE': 259, 'NUM_LAYERS': 3, 'D_MODEL': 24, 'NUM_HEADS': 4, 'HEAD_DIM': 8}
HEADS = ('classification', 'multilabel', 'regression', 'tagging', 'text_to_text', 'dialogue')
# Variants of a method or an architecture that change the tree: (gin files besides the entry file, bindings).
METHOD_VARIANTS = {
    'lora_attention_rank_4': (['gin/peft/lora.gin'], {'LORA_TARGETS': 'stack/attn/qkv/[qv]', 'LORA_RANK': 4}),
    'lora_rank_stabilized': (['gin/peft/lora.gin'], {'lora.LoRA.use_rslora': True}),
    'lora_decomposed': (['gin/peft/lora.gin'], {'lora.LoRA.use_dora': True}),
    'prefix_reparameterized': (['gin/peft/prefix.gin'], {'PREFIX_BOTTLENECK_DIM': 12}),
    'top_2_layers': (['gin/peft/top_k_layers.gin'], {'TRAINABLE_LAYERS': 2}),
    'lora_and_norms': (['gin/peft/lora.gin'], {'TRAINABLE': ['.*norm/scale']}),
}
ARCHITECTURES = {
    'micro': {},
    'serial': {'palm.Architecture.parallel': False},
    'rmsnorm': {'palm.Architecture.norm': 'rmsnorm'},
    'qk_norm': {'palm.Architecture.qk_norm': True},
    'grouped_query': {'palm.Architecture.num_kv_heads': 2},
    'multi_head': {'palm.Architecture.num_kv_heads': 4},
    'mlp_dim': {'palm.Architecture.mlp_dim': 40},
    'no_final_norm': {'palm.Architecture.final_norm': False},
    'bfloat16_parameters': {'palm.Architecture.param_dtype': 'bfloat16'},
    'output_matrix': {'palm.Architecture.shared_embedding': False},
    'biases': {'palm.Architecture.qkv_bias': True},
    'separate_projections': {'palm.Architecture.fuse_projections': False},
}


def trees() -> dict[str, dict[str, Any]]:
    """Every golden tree by its file's name, without `.json`, below tests/goldens/parameters."""
    found = {}
    for size in _stems('models', without=('palm', 'pretrained')):
        vocabulary = {'tiny': 4096, '8b': 256_000, '62b': 256_000, '540b': 256_000}.get(size, 32_000)
        arguments = _build(['gin/pretrain_tiny.gin', f'gin/models/{size}.gin'], {'VOCABULARY_SIZE': vocabulary})
        found[f'sizes/{size}'] = _parameters(arguments)
    for name, bindings in ARCHITECTURES.items():
        found[f'architectures/{name}'] = _parameters(_build(['gin/pretrain_tiny.gin'], MICRO | bindings))
    found['heads/next_sentence'] = _parameters(
        _build(['gin/pretrain_tiny.gin', 'gin/objectives/next_sentence.gin'], MICRO)
    )
    for name in _stems('optim'):
        found[f'optimizers/{name}'] = _state(_build(['gin/pretrain_tiny.gin', f'gin/optim/{name}.gin'], MICRO))
    with _tables() as tables:
        for head in HEADS:
            found[f'heads/{head}'] = _parameters(
                _finetune(
                    ['gin/peft/full.gin', f'gin/heads/{head}.gin'],
                    {'TRAIN_FILES': tables.get(head, tables['classification'])},
                )
            )
        table = {'TRAIN_FILES': tables['classification']}
        for name in _stems('peft'):
            found[f'methods/{name}'] = _trained(_finetune([f'gin/peft/{name}.gin'], table))
        for name, (files, bindings) in METHOD_VARIANTS.items():
            found[f'methods/{name}'] = _trained(_finetune(files, table | bindings))
        found['optimizers/adalora'] = _state(_finetune(['gin/peft/adalora.gin'], table))
    return found


def text(tree: dict[str, Any]) -> str:
    """A tree as JSON, one parameter a line."""
    return (
        '{\n' + ',\n'.join(f'{json.dumps(path)}: {json.dumps(leaf)}' for path, leaf in sorted(tree.items())) + '\n}\n'
    )


def write() -> None:
    """Replaces the files below tests/goldens/parameters."""
    new = trees()
    for old in DIRECTORY.rglob('*.json'):
        old.unlink()
    for name, tree in new.items():
        path = DIRECTORY / f'{name}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(tree))


def _stems(folder: str, without: tuple[str, ...] = ()) -> list[str]:
    return sorted({path.stem for path in (ROOT / 'gin' / folder).glob('*.gin')} - set(without))


def _build(files: list[str], bindings: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `loop.train` that gin files and bindings make."""
    return load('loop.train', files, [(name, repr(value)) for name, value in bindings.items()]).build('loop.train')


def _finetune(files: list[str], bindings: dict[str, Any]) -> dict[str, Any]:
    """A fine-tuning run on a micro model, without a checkpoint to start from."""
    bindings = {'VOCABULARY': 'bytes'} | MICRO | bindings
    return _build(['gin/finetune_lora.gin', 'gin/models/tiny.gin', *files], bindings)


@contextlib.contextmanager
def _tables() -> Iterator[dict[str, str]]:
    """Tables to fine-tune on, by head: three labels, so that the head's size is not the default of anything."""
    labels = {'classification': 'abc', 'multilabel': ('a', 'b|c', 'a|c'), 'regression': (0.1, 0.2, 0.3)}
    with tempfile.TemporaryDirectory() as folder:
        paths = {head: f'{folder}/{head}.csv' for head in labels} | {'tagging': f'{folder}/tagging.conll'}
        for head, values in labels.items():
            rows = ''.join(f'text {i},{values[i % 3]}\n' for i in range(60))
            Path(paths[head]).write_text(f'text,label\n{rows}')
        Path(paths['tagging']).write_text(''.join(f'Ann{i} B-PER\nis O\n\n' for i in range(40)))
        yield paths


def _parameters(arguments: dict[str, Any]) -> dict[str, Any]:
    """All parameters of a run's model, by path."""
    model, _ = adapt_from_arguments(arguments)
    return _leaves(jax.eval_shape(lambda rng: init_params(model, rng), jax.random.key(0)), path_name)


def _trained(arguments: dict[str, Any]) -> dict[str, Any]:
    """All parameters of a run's model, with whether the run trains, and so saves, them."""
    state = _initial_state(arguments)
    leaves = [(tree, trained) for tree, trained in ((state.params, True), (state.frozen, False))]
    return {
        path: leaf | {'trained': trained} for tree, trained in leaves for path, leaf in _leaves(tree, path_name).items()
    }


def _state(arguments: dict[str, Any]) -> dict[str, Any]:
    """The optimizer's state, by the path under which a checkpoint holds it."""
    return _leaves(_initial_state(arguments).opt_state, jax.tree_util.keystr)


def _initial_state(arguments: dict[str, Any]) -> Any:
    model, selection = adapt_from_arguments(arguments)
    optimizer = model.wrap_optimizer(arguments['optimizer'])
    return jax.eval_shape(lambda rng: init_state(model, optimizer, rng, selection), jax.random.key(0))


def _leaves(tree: Any, name: Any) -> dict[str, Any]:
    found = {}
    boxes = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, 'names'))
    for path, leaf in boxes:
        value = getattr(leaf, 'value', leaf)
        if not hasattr(value, 'shape'):  # optax's mark of a parameter that another optimizer handles
            continue
        found[name(path)] = {'shape': list(value.shape), 'dtype': str(value.dtype)}
        if hasattr(leaf, 'names'):
            found[name(path)]['axes'] = list(leaf.names)
    return found


if __name__ == '__main__':
    sys.exit(write())
