"""A training step has the collectives that its layout needs and gathers no activations."""

import functools
import re

import jax
import jax.numpy as jnp

from palm_jax import partitioning
from palm_jax.compilation.collectives import collectives_of
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.partitioning import MeshLayout
from palm_jax.training import losses, optimizers, schedules, state
from palm_jax.training.step import train_step

B, L, D, H, K, F, V, N = 8, 24, 128, 8, 16, 512, 256, 3
arch = Architecture(vocab_size=V, num_layers=N, d_model=D, num_heads=H, head_dim=K, mlp_dim=F)
model, optimizer = PaLM(arch), optimizers.adamw(schedules.constant(1e-3))


def step_collectives(layout, chunk_length=0):
    mesh = layout.mesh()
    # As accelerators multiply: a CPU's own orientation of weights' gradients gathers activations.
    with layout.on(mesh):
        init = functools.partial(state.init_state, model, optimizer)
        boxed = jax.eval_shape(init, jax.random.key(0))
        places = layout.shardings(boxed, mesh)
        shapes = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state.unbox(boxed), places
        )
        by_batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
        batch = {
            f'decoder_{name}': jax.ShapeDtypeStruct((B, L), jnp.int32, sharding=by_batch)
            for name in ('input_tokens', 'target_tokens', 'loss_weights')
        }
        loss = losses.LanguageModelLoss(chunk_length=chunk_length)
        step = functools.partial(train_step, model=model, loss=loss, optimizer=optimizer)
        traced = jax.jit(step, donate_argnums=0, out_shardings=(places, None)).trace(shapes, batch, jax.random.key(0))
        # With the matmuls of GPUs: the orientation of weights' gradients on a CPU gathers activations.
        compiled = traced.lower(lowering_platforms=('cuda',)).compile()
    return collectives_of(compiled.as_text())


def of(kind, found):
    return [name for name in found if name.startswith(kind)]


def gathers_activations(found):
    large = [name for name in of('all-gather', found) if found[name][1] > 4096]  # not ids, nor a number a token
    return [name for name in large if re.search(rf'[\\[,]({L}|{B * L})[,\\]]', name)]


found = step_collectives(MeshLayout(rules=partitioning.data_parallel()))
assert of('all-reduce', found) and not of('all-gather', found), found
found = step_collectives(MeshLayout())
assert of('all-gather', found) and not gathers_activations(found), found
found = step_collectives(MeshLayout(model=2))
assert of('all-gather', found) and of('all-reduce', found) and not gathers_activations(found), found
for layout in (MeshLayout(), MeshLayout(model=2)):  # chunks of the loss share what devices tell each other
    whole, chunked = (sum(n * size for n, size in step_collectives(layout, c).values()) for c in (0, 4))
    assert chunked < 1.05 * whole, (whole, chunked)
print('as expected')
