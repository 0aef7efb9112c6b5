"""Three training steps on one device and on a mesh of eight: the same loss, gradients and parameters.

python -m tests.programs.train_on_a_mesh '{"mesh": "tensor", ...}', with the fields of `Case`.
"""

import dataclasses
import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax import partitioning
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.training import losses, optimizers, schedules, setup, state, step
from tests.support.meshes import MESHES
from tests.support.methods import METHODS


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained, and how.

    Attributes:
      mesh: a name of `MESHES`.
      num_kv_heads: number of key/value heads.
      optimizer: a function of `optimizers`.
      settings: keyword arguments of the optimizer.
      method: a name of `METHODS`; None trains all parameters.
      top_layers: number of layers that are trained, from the top; None trains all.
      variants: (unroll_layers, microbatches) of every run on the mesh.
      skip: whether most positions have weight 0 and the loss skips them.
      reduce_dtype: dtype in which devices add their gradients of the linear maps, see `MeshLayout`.
    """

    mesh: str
    num_kv_heads: int = 1
    optimizer: str = 'adafactor'
    settings: dict = dataclasses.field(default_factory=dict)
    method: str | None = None
    top_layers: int | None = None
    variants: tuple = ((1, 1),)
    skip: bool = False
    reduce_dtype: str | None = None


def remembering(optimizer):
    """Makes the same updates; the optimizer's state also holds the last gradient."""

    def update(grads, state, params):
        updates, new = optimizer.update(grads, state[0], params)
        return updates, (new, grads)

    return optimizer._replace(init=lambda p: (optimizer.init(p), jax.tree.map(jnp.zeros_like, p)), update=update)


def train(case, batch, devices, layout, unroll=1, microbatches=1):
    """Returns the state after three steps, the last loss, and the selection of trained parameters."""
    arch = Architecture(
        vocab_size=64, num_layers=2, d_model=32, num_heads=4, head_dim=8, num_kv_heads=case.num_kv_heads,
        unroll_layers=unroll,
    )  # fmt: skip
    adaptation = {} if case.method is None else {'methods': METHODS[case.method]}
    if case.top_layers is not None:
        adaptation['trainable_layers'] = case.top_layers
    model, selection = setup.adapt(PaLM(arch), **adaptation)
    model = model.freeze_layers(arch.num_layers - (selection.top_layers or arch.num_layers))
    make = getattr(optimizers, case.optimizer)
    optimizer = remembering(model.wrap_optimizer(make(schedules.constant(1e-2), **case.settings)))
    loss = losses.LanguageModelLoss(chunk_length=16, skip_unweighted=case.skip)
    mesh = layout.mesh(devices)
    with layout.on(mesh):
        init = functools.partial(state.init_state, model, optimizer, trainable=selection)
        boxed = jax.eval_shape(init, jax.random.key(0))
        shardings = layout.shardings(boxed, mesh)
        current = jax.jit(lambda r: state.unbox(init(r)), out_shardings=shardings)(jax.random.key(0))
        settings = {'optimizer': optimizer, 'microbatches': microbatches, 'penalty': model.penalty}
        fn = functools.partial(step.train_step, model=model, loss=loss, **settings)
        sharded = partitioning.shard_batch(batch, mesh)
        jaxpr = str(jax.make_jaxpr(fn)(current, sharded, jax.random.key(1)))
        assert jaxpr.count('sharding_constraint') >= 3, 'the logical constraints are gone'
        fn = jax.jit(fn, out_shardings=(shardings, None))
        for _ in range(3):
            current, metrics = fn(current, sharded, jax.random.key(1))
    return current, metrics['loss'].value(), selection


def assert_near(one, eight):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), one, eight)


def assert_rounded(one, eight):
    """The gradients of linear maps differ by a rounding to bfloat16 of their parts, 2⁻⁹ at most, and no others do."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(eight), strict=True):
        difference = np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(a)
        least = 1e-5 if any(name in jax.tree_util.keystr(path) for name in ('attn', 'mlp')) else 0
        assert least <= difference < 4e-3, (path, difference)


def main(case):
    assert jax.device_count() == 8
    tokens = np.random.default_rng(0).integers(0, 64, (16, 32)).astype(np.int32)
    batch = {f'decoder_{name}': tokens for name in ('input_tokens', 'target_tokens')}
    batch['decoder_loss_weights'] = (tokens % 4 == 0).astype(np.int32) if case.skip else np.ones_like(tokens)
    layout, split = MESHES[case.mesh]
    layout = dataclasses.replace(layout, reduce_dtype=case.reduce_dtype)
    one, one_loss, selection = train(case, batch, jax.devices()[:1], partitioning.MeshLayout())
    for unroll, microbatches in case.variants:
        eight, eight_loss, _ = train(case, batch, None, layout, unroll, microbatches)
        gate = eight.all_params['stack']['mlp']['in']['gate']
        local = gate.addressable_shards[0].data.size
        assert gate.size // local == split, (gate.size, local)
        for moment in [x for x in jax.tree.leaves(eight.opt_state) if x.shape == gate.shape]:
            assert selection.patterns == ('.*',) and moment.size // moment.addressable_shards[0].data.size == split
        if case.reduce_dtype == 'bfloat16':
            assert_rounded(one.opt_state[1], eight.opt_state[1])
            continue
        np.testing.assert_allclose(one_loss, eight_loss, rtol=1e-5)
        assert_near(one.opt_state[1], eight.opt_state[1])
        assert_near(one.params, eight.params)
    print('equal')


if __name__ == '__main__':
    main(Case(**json.loads(sys.argv[1])))
