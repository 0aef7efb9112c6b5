"""The loss and gradients of a pipeline on eight devices are those of one device, and no weight is gathered.

python -m tests.programs.pipeline_on_a_mesh CASE..., names of `CASES`.
"""

import dataclasses
import sys

import jax
import numpy as np

from palm_jax import partitioning
from palm_jax.compilation.collectives import collectives_of
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.partitioning import MeshLayout, fully_sharded, pipeline, sequence
from palm_jax.peft.trainable import join
from palm_jax.training import losses, setup, state
from palm_jax.training.base_weights import quantize_base
from tests.support.methods import METHODS


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and its pipeline.

    Attributes:
      stage, microbatches, repeats, model: fields of the layout.
      layers: number of layers.
      within: rules of what a stage splits over its own devices.
      rows: number of rows of the batch.
      arch: further fields of the architecture.
      method: a name of `METHODS`; None trains all parameters.
      frozen: number of layers at the bottom that have no gradient.
      quantized: type of the base's weights in memory; None keeps them as they are.
      collectives: whether those of the compiled program are checked.
    """

    stage: int
    layers: int
    microbatches: int | None = None
    repeats: int = 1
    model: int = 1
    within: tuple | None = None
    rows: int = 16
    arch: dict = dataclasses.field(default_factory=dict)
    method: str | None = None
    frozen: int = 0
    quantized: str | None = None
    collectives: bool = False

    @property
    def layout(self):
        """The layout of the pipeline."""
        return MeshLayout(
            model=self.model, rules=pipeline(self.within), stage=self.stage,
            pipeline_microbatches=self.microbatches, pipeline_repeats=self.repeats,
        )  # fmt: skip


PATTERN = {'window': 5, 'global_layers': (1,), 'unrotated_layers': (0, 3)}
CASES = {
    'three axes': Case(stage=2, layers=4, microbatches=4, model=2, arch=PATTERN),
    'circular': Case(stage=4, layers=8, repeats=2, rows=8, collectives=True),
    'circular with a queue': Case(stage=2, layers=6, microbatches=5, repeats=3, rows=20, arch={'remat': 'minimal'}),
    'deep': Case(stage=8, layers=8, microbatches=16, arch={'remat': 'full', 'parallel': False}),
    'few microbatches': Case(stage=4, layers=4, microbatches=2),
    'frozen layers': Case(stage=2, layers=4, frozen=3),
    'methods': Case(stage=2, layers=2, method='several'),
    'quantized': Case(stage=2, layers=4, repeats=2, method='lora', quantized='nf4'),
    'fully sharded': Case(stage=2, layers=2, model=2, within=fully_sharded()),
    'sequence': Case(stage=2, layers=2, model=2, within=sequence()),
}


def batch_of(rows):
    """Packed rows: two texts of unequal length and padding."""
    rng, length = np.random.default_rng(0), 16
    tokens = rng.integers(0, 64, (rows, length)).astype(np.int32)
    ends = np.sort(rng.integers(4, length, (rows, 2)), axis=1)
    columns = np.arange(length)
    segments = np.where(columns < ends[:, :1], 1, np.where(columns < ends[:, 1:], 2, 0)).astype(np.int32)
    positions = np.where(segments == 2, columns - ends[:, :1], columns).astype(np.int32)
    return {
        'decoder_input_tokens': tokens,
        'decoder_target_tokens': np.roll(tokens, -1, axis=1),
        'decoder_loss_weights': (segments > 0).astype(np.int32),
        'decoder_segment_ids': segments,
        'decoder_positions': positions,
    }


def value_and_gradient(case, layout, devices):
    """The summed loss, and the gradient of the trained parameters."""
    sizes = {'vocab_size': 64, 'd_model': 32, 'num_heads': 4, 'head_dim': 8, 'unroll_layers': 1}
    arch = Architecture(num_layers=case.layers, **(sizes | case.arch))
    model, selection = setup.adapt(PaLM(arch), METHODS[case.method] if case.method else ())
    model, mesh, loss = model.freeze_layers(case.frozen), layout.mesh(devices), losses.LanguageModelLoss()
    boxed = jax.eval_shape(lambda rng: state.init_params(model, rng), jax.random.key(0))
    layout.check(boxed, dict(mesh.shape))
    values = jax.jit(lambda rng: state.unbox(state.init_params(model, rng)))(jax.random.key(0))
    noise = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(values))))  # some methods begin with zeros
    values = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(next(noise), x.shape), values)
    with layout.on(mesh):
        trained, frozen = selection.split(jax.device_put(values, layout.shardings(boxed, mesh)))
        frozen = quantize_base(case.quantized or 'stored', trained, frozen)
        batch = partitioning.shard_batch(batch_of(case.rows), mesh)

        def of_trained(trained, frozen, batch):
            return loss(model, join(trained, frozen), batch)[0]

        step = jax.jit(jax.value_and_grad(of_trained))
        value, gradient = step(trained, frozen, batch)
        if case.collectives and layout.schedule:
            # With the matmuls of GPUs: the orientation of weights' gradients on a CPU gathers activations.
            compiled = step.trace(trained, frozen, batch).lower(lowering_platforms=('cuda',)).compile()
            check_collectives(collectives_of(compiled.as_text()), 32 * 128 * 4 * case.layers)
    return value, jax.device_get(gradient)


def check_collectives(found, size):
    """Activations move by permutations, and no weight is gathered; `size` is the bytes of the gates of all layers."""
    assert any(kind.startswith('collective-permute') for kind in found), found
    gathered = {kind: bytes_ for kind, (_, bytes_) in found.items() if kind.startswith('all-gather')}
    assert all(bytes_ < size for bytes_ in gathered.values()), gathered


def assert_near(ours, theirs, path):
    difference, size = np.linalg.norm(ours - theirs), np.linalg.norm(theirs)
    assert difference <= 2e-6 * size, (path, difference / max(size, 1e-30))


def compare(name):
    case = CASES[name]
    one, expected = value_and_gradient(case, MeshLayout(), jax.devices()[:1])
    eight, found = value_and_gradient(case, case.layout, None)
    np.testing.assert_allclose(eight, one, rtol=1e-6)
    jax.tree_util.tree_map_with_path(lambda path, a, b: assert_near(a, b, path), found, expected)
    gate = expected.get('stack', {}).get('mlp', {}).get('in', {}).get('gate')
    if case.frozen:
        assert gate.any(axis=(1, 2)).tolist() == [number >= case.frozen for number in range(case.layers)]


def main(names):
    assert jax.device_count() == 8
    for name in names:
        compare(name)
    print('equal')


if __name__ == '__main__':
    main(sys.argv[1:])
