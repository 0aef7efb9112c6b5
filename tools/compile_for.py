"""python -m tools.compile_for --topology v5e:2x4 --gin_file=gin/pretrain_base.gin [--gin.NAME=value ...] [--sweep]

Compiles a run's train step for TPUs that are not here, with the real TPU compiler, and says whether it fits: bytes on
a device against the chip's memory, FLOPs against the paper's formula, every collective with its bytes, and what time
they allow at best. --sweep tries meshes, batches and ways of rematerialization, and names the best that fits.

TOPOLOGY is a generation and its chips, e.g. v5e:2x2, v4:4x4x4, v5p:8x8x8, v6e:4x4. Needs
`pip install "palm_jax[compile]"`, no TPU and no TensorFlow.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import importlib.util
import itertools
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from palm_jax import command_line
from palm_jax.errors import UserError, closest
from palm_jax.models import target
from palm_jax.partitioning import Layout
from palm_jax.training import flops, loop
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.plan import Plan
from palm_jax.training.state import init_state, unbox
from palm_jax.training.step import train_step


@dataclasses.dataclass(frozen=True)
class Chip:
    """A generation of TPUs, by its data sheet (cloud.google.com/tpu/docs).

    Attributes:
      kind: as jax names it.
      memory: bytes of HBM.
      bandwidth: bytes/s of HBM.
      links: bytes/s that all links of a chip to its neighbours send together, one way.
      megacore: whether its two cores are one device.
    """

    kind: str
    memory: float
    bandwidth: float
    links: float
    megacore: bool


CHIPS = {
    'v4': Chip('TPU v4', 32 * 2**30, 1.2e12, 300e9, True),
    'v5e': Chip('TPU v5e', 16 * 2**30, 0.82e12, 200e9, False),
    'v5p': Chip('TPU v5p', 95 * 2**30, 2.77e12, 600e9, True),
    'v6e': Chip('TPU v6e', 32 * 2**30, 1.64e12, 448e9, False),
}
_COLLECTIVES = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
_ITEM_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 'f32': 4, 's32': 4, 'u32': 4}
_ITEM_BYTES |= {'f64': 8, 's64': 8, 'u64': 8}


def main(arguments: Sequence[str]) -> int:
    """Compiles once, or sweeps."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.compile_for', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--topology', required=True, help='e.g. v5e:2x4')
    parser.add_argument('--gin_file', action='append', required=True, help='as of palm_jax.train')
    parser.add_argument('--sweep', action='store_true', help='try meshes, batches and remat; name the best that fits')
    rest, flags = command_line.split_flags(arguments)
    options = parser.parse_args(rest)
    chip, devices = devices_of(options.topology)

    def compiled(*more: tuple[str, str]) -> Compiled:
        configuration = command_line.load_configuration('loop.train', options.gin_file, [*flags, *more])
        return compile_step(configuration.build('loop.train'), chip, devices)

    if options.sweep:
        sweep(compiled, options, flags, len(devices))
    else:
        print(compiled().report())
    return 0


def devices_of(topology: str) -> tuple[Chip, list[Any]]:
    """The chip of a topology, and its devices as the compiler sees them.

    Raises:
      UserError: no such generation or shape, or no libtpu.
    """
    generation, _, shape = topology.partition(':')
    if generation not in CHIPS or not re.fullmatch(r'\d+x\d+(x\d+)?', shape):
        raise UserError(
            f'--topology={topology}: a generation and its chips, e.g. v5e:2x4.{closest(generation, CHIPS)} '
            f'Generations: {", ".join(CHIPS)}.'
        )
    _find_compiler()
    chip = CHIPS[generation]
    more = {'chip_config_name': 'megacore'} if chip.megacore else {}
    try:
        found = topologies.get_topology_desc(platform='tpu', topology_name=topology, **more)
    except Exception as error:  # of the compiler, which knows the shapes there are
        raise UserError(f'--topology={topology}: the TPU compiler does not know it ({str(error)[:300]}).') from None
    return chip, list(found.devices)


def _find_compiler() -> None:
    """Sets what makes libtpu a compiler on a machine without a TPU."""
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-8')
    os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')  # it uses no chip, so others may compile beside it
    if 'TPU_LIBRARY_PATH' in os.environ:
        return
    found = importlib.util.find_spec('libtpu')
    if found is None or not found.submodule_search_locations:
        raise UserError('The TPU compiler is in libtpu, which is not installed: pip install "palm_jax[compile]"')
    os.environ['TPU_LIBRARY_PATH'] = str(Path(next(iter(found.submodule_search_locations))) / 'libtpu.so')


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A train step as the TPU compiler made it.

    Attributes:
      plan: of the run.
      chip: what it was compiled for.
      seconds: that it took.
      memory: bytes on a device by what they hold.
      counted_flops: of the matmuls of a step, without recomputation, on all devices.
      collectives: (times a step, bytes a time) by kind and shape.
      problem: what the compiler said when it does not fit.
    """

    plan: Plan
    chip: Chip
    seconds: float
    memory: Mapping[str, float]
    counted_flops: float
    collectives: Mapping[str, tuple[int, float]]
    problem: str | None = None

    @property
    def tokens(self) -> int:
        """Of a step."""
        return max(size for _, size in self.plan.batch_sizes.ramp) * self.plan.length

    @property
    def formula_flops(self) -> float:
        """Of a step, by the paper's formula."""
        return self.plan.flops_per_token * self.tokens

    @property
    def num_devices(self) -> int:
        """Of the mesh."""
        return int(np.prod(list(self.plan.axis_sizes.values())))

    @property
    def compute_seconds(self) -> float:
        """Of a step, at the chip's peak."""
        return self.formula_flops / (self.num_devices * flops.peak(self.chip.kind))

    @property
    def collective_seconds(self) -> float:
        """Of a step, when every byte crosses all of a chip's links at once."""
        return sum(times * size for times, size in self.collectives.values()) / self.chip.links

    @property
    def fits(self) -> bool:
        """Whether the chip's memory is enough."""
        return self.problem is None and sum(self.memory.values()) <= self.chip.memory

    def in_short(self) -> str:
        """Whether it fits, and how fast it can be, in one line."""
        if self.problem is not None:
            return f'the compiler refuses it: {self.problem[:100]}'
        bound = max(self.compute_seconds, self.collective_seconds)
        used = sum(self.memory.values()) / 2**30
        fits = 'fits' if self.fits else 'does not fit'
        return f'{fits}, {used:.2f} GiB a device, {self.tokens / bound:,.0f} tokens/s at best'

    def report(self) -> str:
        """Everything, for the terminal."""
        lines = [self.plan.summary(None), f'compiled   for {self.chip.kind} in {self.seconds:.0f} s']
        if self.problem is not None:
            return '\n'.join([*lines, f'the compiler refuses it: {self.problem}'])
        used = sum(self.memory.values())
        parts = ', '.join(f'{name} {size / 2**30:.2f}' for name, size in self.memory.items())
        share = self.counted_flops / self.formula_flops
        lines += [
            f'memory     {used / 2**30:.2f} of {self.chip.memory / 2**30:.0f} GiB a device ({parts}): '
            f'{"fits" if self.fits else "does not fit"}',
            f'FLOPs      {self.counted_flops:.4g} a step in its matmuls, attention in full, {share:.1%} of the formula',
            'collectives a step and device',
        ]
        ordered = sorted(self.collectives.items(), key=lambda item: -item[1][0] * item[1][1])
        lines += [
            f'    {times * size / 2**20:>12,.1f} MiB  {times:>6} × {name}' for name, (times, size) in ordered[:12]
        ]
        if len(ordered) > 12:
            rest = sum(times * size for _, (times, size) in ordered[12:])
            lines.append(f'    {rest / 2**20:>12,.1f} MiB  {len(ordered) - 12} other kinds')
        bound = max(self.compute_seconds, self.collective_seconds)
        lines += [
            f'at best    {bound:.3g} s a step: {self.compute_seconds:.3g} s of matmuls at '
            f'{flops.peak(self.chip.kind):.3g} FLOP/s, {self.collective_seconds:.3g} s of collectives at '
            f'{self.chip.links:.3g} B/s',
            '           (matmuls at peak, nothing recomputed; collectives on all links at once, behind the matmuls)',
            f'           {self.tokens / bound:,.0f} tokens/s, MFU at most {self.compute_seconds / bound:.0%}',
        ]
        return '\n'.join(lines)


def compile_step(arguments: Mapping[str, Any], chip: Chip, devices: list[Any]) -> Compiled:
    """Compiles the step of `loop.train(**arguments)` for devices that are not here."""
    layout: Layout = arguments['layout']
    sizes = layout.axis_sizes(len(devices))
    adaptation = {name: arguments[name] for name in loop.ADAPTATION if name in arguments}
    model, selection = loop.adapt(arguments['model'], **adaptation)
    optimizer, batch_sizes = model.wrap(arguments['optimizer']), BatchSizes.of(arguments['batch_size'])
    init = functools.partial(init_state, model, optimizer, trainable=selection)
    boxed = jax.eval_shape(init, jax.random.key(0))
    layout.check((boxed.params, boxed.frozen), sizes)
    frozen_layers = selection.frozen_layers(boxed.params, model.arch.num_layers)
    length = arguments['data'].length
    plan = Plan(model, boxed, layout, sizes, batch_sizes, length, arguments['total_steps'], frozen_layers)
    mesh = layout.mesh(devices)
    shardings = layout.shardings(boxed, mesh)
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), unbox(boxed), shardings)
    size = max(size for _, size in batch_sizes.ramp)
    microbatches = arguments.get('microbatches', 1)
    if size % (sizes['data'] * microbatches):
        raise UserError(
            f'BATCH_SIZE = {size} does not divide into MICROBATCHES = {microbatches} × data = {sizes["data"]}.'
        )
    batch = _batch(size, length, mesh)
    step = functools.partial(
        train_step,
        model=model.freeze_layers(frozen_layers),
        loss=model.penalized(arguments['loss']),
        optimizer=optimizer,
        microbatches=microbatches,
    )
    on_all = NamedSharding(mesh, PartitionSpec())
    rng = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=on_all)
    start, problem, memory, collectives = time.monotonic(), None, {}, {}
    with jax.set_mesh(mesh), nn.logical_axis_rules(layout.rules), target.compiling_for('tpu'):
        traced = jax.jit(step, donate_argnums=0, out_shardings=(shardings, on_all)).trace(state, batch, rng)
        try:
            compiled = traced.lower(lowering_platforms=('tpu',)).compile()
        except jax.errors.JaxRuntimeError as error:
            problem = _in_short(str(error))
        else:
            stats = compiled.memory_analysis()
            memory = {
                'state and batch': stats.argument_size_in_bytes,
                'temporary': stats.temp_size_in_bytes,
                'program': stats.generated_code_size_in_bytes,
                'new outputs': stats.output_size_in_bytes - stats.alias_size_in_bytes,
            }
            collectives = collectives_of(compiled.as_text())
    seconds = time.monotonic() - start
    with target.compiling_for('cpu'):  # by plain matmuls, without recomputation
        counted = _matmul_flops(arguments['model'], length) * size
    return Compiled(plan, chip, seconds, memory, counted, collectives, problem)


def _batch(size: int, length: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    sharding = NamedSharding(mesh, PartitionSpec('data'))
    names = ('decoder_input_tokens', 'decoder_target_tokens', 'decoder_loss_weights')
    return {name: jax.ShapeDtypeStruct((size, length), jnp.int32, sharding=sharding) for name in names}


def _in_short(error: str) -> str:
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    told = [line for line in lines if re.search(r'hbm|memory|exceed', line, re.IGNORECASE)]
    return ' '.join((told or lines)[:3])[:600]


def collectives_of(hlo: str) -> dict[str, tuple[int, float]]:
    """(times a step, bytes of the result on a device) of every collective in a compiled program, by kind and shape.

    A loop's body counts as often as its counter, compared with a constant, lets it run.
    """
    computations: dict[str, list[str]] = collections.defaultdict(list)
    name, entry = '', ''
    for line in hlo.splitlines():
        header = re.match(r'(ENTRY )?%?([\w.-]+) .*\{$', line)
        if header and not line.startswith(' '):
            name = header[2]
            entry = name if header[1] else entry
        elif line.strip() and line != '}':
            computations[name].append(line.strip())
    found: dict[str, tuple[int, float]] = {}

    def visit(computation: str, times: int) -> None:
        for line in computations.get(computation, ()):
            kind = re.search(rf' ({"|".join(_COLLECTIVES)})(-start)?\(', line)
            if kind:
                shape = line.partition('=')[2].partition(kind[0])[0].strip()
                size = _bytes(shape, kind[2] is not None)
                key = f'{kind[1]} {re.sub(r"{[^}]*}", "", shape)}'[:90]
                before = found.get(key, (0, size))[0]
                found[key] = (before + times, size)
            loop = re.search(r'while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)', line)
            if loop:
                limits = re.findall(r'constant\((\d+)\)', '\n'.join(computations[loop[1]]))
                visit(loop[2], times * max(map(int, limits), default=1))
            for called in re.findall(r'(?:to_apply|calls|called_computations=\{)=?%?([\w.-]+)', line):
                if not kind:
                    visit(called, times)
            for branches in re.findall(r'branch_computations=\{([^}]*)\}', line):
                for branch in branches.split(','):
                    visit(branch.strip().lstrip('%'), times)

    visit(entry, 1)
    return found


def _bytes(shape: str, is_start: bool) -> float:
    """Of an HLO shape; an asynchronous start's is a pair of operand and result, of which the result counts."""
    arrays = re.findall(r'(\w+)\[([\d,]*)\]', shape)
    sizes = [
        _ITEM_BYTES.get(kind, 4) * np.prod([int(n) for n in dims.split(',') if n], initial=1) for kind, dims in arrays
    ]
    if is_start and len(sizes) > 1:
        return float(max(sizes))
    return float(sum(sizes))


def _matmul_flops(model: Any, length: int) -> float:
    """FLOPs of the forward pass's matmuls for one sequence, three times: forward, and both gradients.

    Attention counts in full, as in the formula; the lookup in the embedding is none.
    """
    arch = dataclasses.replace(model.arch, remat='none', attention='xla', dtype='float32', num_layers=1)
    flops_of = []
    for layers in (1, 2):
        one = dataclasses.replace(model, arch=dataclasses.replace(arch, num_layers=layers), head=None)
        tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
        params = unbox(
            jax.eval_shape(lambda rng, one=one: one.init(rng, jnp.zeros((1, 8), jnp.int32)), jax.random.key(0))
        )
        jaxpr = jax.make_jaxpr(lambda p, t, one=one: one.apply(p, t))(params, tokens)
        flops_of.append(sum(_dot_flops(jaxpr.jaxpr)))
    one_layer = flops_of[1] - flops_of[0]
    return 3.0 * (flops_of[0] + (model.arch.num_layers - 1) * one_layer)


def _dot_flops(jaxpr: Any) -> Iterator[float]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == 'dot_general':
            (contracted, _), _ = equation.params['dimension_numbers']
            left = equation.invars[0].aval.shape
            result = equation.outvars[0].aval.shape
            yield 2.0 * np.prod(result, dtype=float) * np.prod([left[i] for i in contracted], dtype=float)
        times = equation.params.get('length', 1) if equation.primitive.name == 'scan' else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, 'jaxpr', inner)
                if hasattr(inner, 'eqns'):
                    yield from (times * f for f in _dot_flops(inner))


def sweep(compiled: Any, options: argparse.Namespace, flags: Sequence[tuple[str, str]], num_devices: int) -> None:
    """Tries powers of two along `model`, the batch up to eight times, and every remat; prints a line each.

    A larger batch is not tried where a smaller one does not fit, nor more recomputation where less leaves room.
    """
    given = dict(flags).get('BATCH_SIZE')
    if given is None or not given.isdigit():
        raise UserError('--sweep multiplies the batch it is given: --gin.BATCH_SIZE=32')
    results: list[tuple[Compiled, str]] = []
    roomy: set[tuple[int, int]] = set()  # (devices along `model`, times the batch) that fit already
    for mesh_model, remat in itertools.product((1, 2, 4, 8), ('none', 'minimal', 'full')):
        if num_devices % mesh_model or (mesh_model, 8) in roomy:
            continue
        for factor in (1, 2, 4, 8):
            changes = [('MESH_MODEL', str(mesh_model)), ('MESH_DATA', '-1'), ('REMAT', remat)]
            changes.append(('BATCH_SIZE', str(int(given) * factor)))
            name = ' '.join(f'--gin.{key}={value}' for key, value in changes)
            try:
                result = compiled(*changes)
            except UserError as error:
                print(f'{name}: {error}', flush=True)
                break
            print(f'{name}: {result.in_short()}', flush=True)
            if not result.fits:
                break
            results.append((result, name))
            roomy.add((mesh_model, factor))
    if not results:
        raise UserError(f'Nothing that was tried fits {options.topology}: more chips, a smaller batch or model.')
    # Recomputation costs a third (all of the forward pass) or nothing (its matmuls are kept).
    cost = {'none': 1.0, 'minimal': 1.05, 'full': 4 / 3}
    best = min(
        results,
        key=lambda r: (
            max(r[0].compute_seconds * cost[r[0].plan.model.arch.remat], r[0].collective_seconds) / r[0].tokens
        ),
    )
    print(f'\nbest of those that fit:\n  {best[1]}\n{best[0].report()}')


if __name__ == '__main__':
    command_line.run(main)
