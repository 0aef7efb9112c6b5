"""A micro model with dropout for each kind of prediction, its loss and a batch, for tests of loss wrappers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.models.heads import Head
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.parameters import leaves_by_path
from palm_jax.partitioning import MeshLayout
from palm_jax.peft.lora import LoRA
from palm_jax.peft.trainable import join
from palm_jax.run_directory import RunDirectory
from palm_jax.training import head_losses, losses, optimizers, schedules, setup, simcse, state, step
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.fisher import Fisher
from palm_jax.training.loss_wrappers.wrapper import LossInputs, anchor_of, state_of, wrap
from tests.support.architectures import MICRO
from tests.support.models import initial, shaken

C, L = 3, 12
HEADS = {
    'words': None,
    'texts': None,
    'class': Head(C),
    'labels': Head(C),
    'number': Head(1),
    'tokens': Head(C, pooling='none'),
}
LOSSES = {
    'words': losses.LanguageModelLoss(chunk_length=5, skip_unweighted=True),
    'class': head_losses.ClassLoss(),
    'labels': head_losses.LabelsLoss(),
    'number': head_losses.NumberLoss(),
    'tokens': head_losses.ClassLoss(),
    'texts': simcse.SimCSELoss(),
}
KEY = jax.random.key(11)


@functools.cache
def build(kind='class', dropout_rate=0.3, methods=(LoRA(rank=2),), trainable=None):
    """An adapted model, the selection of what is trained, and all parameters, of which none is at its start."""
    arch = Architecture(**(MICRO | {'num_layers': 1, 'dropout_rate': dropout_rate}))
    model, selection = setup.adapt(PaLM(arch, head=HEADS[kind]), methods, trainable)
    return model, selection, shaken(jax.jit(lambda rng: state.unbox(state.init_params(model, rng)))(jax.random.key(0)))


def features(kind, rows=4):
    """A batch; the second row of it has padding, and the third one no weight."""
    rng = np.random.default_rng(3)
    tokens = rng.integers(3, MICRO['vocab_size'], (rows, L)).astype(np.int32)
    inputs = np.pad(tokens, [(0, 0), (1, 0)])[:, :-1]
    if kind == 'words':
        weights = (rng.random(tokens.shape) < 0.5).astype(np.int32)
        weights[2:3] = 0
        tokens[1:2, 8:] = 0
        return {
            'decoder_input_tokens': inputs,
            'decoder_target_tokens': tokens,
            'decoder_loss_weights': weights * (tokens > 0),
        }
    segments = np.ones_like(tokens)
    segments[1:2, 8:] = 0
    shape = {'tokens': (rows, L), 'labels': (rows, C)}.get(kind, (rows,))
    weights = np.ones((rows, L) if kind == 'tokens' else (rows,), np.float32)
    weights[2:3] = 0
    labels = rng.integers(0, 2 if kind == 'labels' else C, shape)
    return {
        'decoder_input_tokens': inputs,
        'decoder_segment_ids': segments,
        'labels': labels.astype(np.float32 if kind in ('labels', 'number') else np.int32),
        'label_weights': weights,
    }


def inputs_of(model, params, batch, at=0, teachers=None):
    """What a loss is computed from, after `at` steps."""
    batch = {name: jnp.asarray(x) for name, x in batch.items()}
    rng = KEY if model.has_dropout else None
    return LossInputs(model, params, batch, rng, KEY, jnp.int32(at), teachers=teachers or {})


def write_teacher(folder, vocabulary='micro', **changes):
    """Write a checkpoint of a language model that differs from the one that `build` makes; return its MODEL_DIR."""
    arch = Architecture(**(MICRO | {'num_layers': 2, 'd_model': 16, 'num_heads': 2} | changes))
    params = shaken(initial(PaLM(arch), 3))
    metadata = CheckpointMetadata.of_model(arch, vocabulary)
    checkpoints = Checkpoints(RunDirectory(folder).checkpoints, 1, metadata)
    checkpoints.save(state.TrainState(jnp.zeros((), jnp.int32), params, {}), 0)
    checkpoints.close()
    return str(folder)


@functools.cache
def teachers_of(wrappers, on=1, vocabulary='micro', **options):
    """The parameters of the teachers of wrappers around the model that `build` makes, on a number of devices."""
    if not any(wrapper.teachers() for wrapper in wrappers):
        return {}
    model, selection, _ = build(**options)
    layout = MeshLayout()
    optimizer = optimizers.adamw(schedules.constant(1e-2))
    of_run = setup.Setup.of(model, selection, optimizer, layout, on, 4, L, 10, 'stored', wrappers)
    return of_run.load_teachers(layout.mesh(jax.devices()[:on]), CheckpointMetadata(vocabulary))[0]['teachers']


def write_fisher(path, **options):
    """Write random Fisher information for the base of the classifier that `build` makes; return the path for EWC."""
    _, _, params = build('class', **options)
    rng = np.random.default_rng(8)
    base = {p: x for p, x in leaves_by_path(params).items() if '/lora/' not in p}
    Fisher({p: rng.random(x.shape).astype(np.float32) for p, x in base.items()}).write(path)
    return str(path)


def outcome(kind, wrappers, batch=None, loss=None, **options):
    """The value, the metrics, and the gradient for the trained parameters, of a loss inside wrappers."""
    model, selection, params = build(kind, **options)
    trained, frozen = selection.split(params)
    batch, teachers = features(kind) if batch is None else batch, teachers_of(wrappers)

    def value(trained):
        inputs = inputs_of(model, join(trained, frozen), batch, teachers=teachers)
        return wrap(loss or LOSSES[kind], wrappers)(inputs)

    (value, metrics), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(trained)
    return value, metrics, gradient


@functools.cache
def train_step(kind, wrappers, microbatches=1, on=1, **options):
    """A compiled step, and the state that it begins with; one for each number of devices that it runs on."""
    model, selection, params = build(kind, **options)
    optimizer = optimizers.adamw(schedules.constant(1e-2))
    trained, frozen = selection.split(params)
    anchor = anchor_of(wrappers, model, params, trained)
    for wrapper in wrappers:
        anchor = wrapper.fill(anchor, (), None)
    begin = state.TrainState(np.int32(0), trained, optimizer.init(trained), frozen, anchor, state_of(wrappers))
    settings = {'model': model, 'loss': LOSSES[kind], 'optimizer': optimizer, 'microbatches': microbatches}
    take = jax.jit(functools.partial(step.train_step, wrappers=wrappers, **settings))
    teachers = teachers_of(wrappers, on)
    return functools.partial(take, teachers=teachers) if teachers else take, begin


def trained_for(steps, kind, wrappers, current=None, batch=None, microbatches=1, **options):
    """The state after some steps, and the metrics of the last one."""
    take, begin = train_step(kind, wrappers, microbatches, **options)
    current, metrics = begin if current is None else current, {}
    for _ in range(steps):
        current, metrics = take(current, features(kind) if batch is None else batch, jax.random.key(1))
    return current, metrics
