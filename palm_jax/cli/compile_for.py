"""palm-jax compile-for --topology v5e:2x4 --gin_file=gin/pretrain_base.gin [--gin.NAME=value ...] [--sweep]

Compiles a run's train step for TPUs that are not here, with the real TPU compiler, and says whether it fits: bytes on
a device against the chip's memory, FLOPs against the paper's formula, every collective with its bytes, and what time
they allow at best. --sweep tries meshes, batches and ways of rematerialization, and names the best that fits.

TOPOLOGY is a generation and its chips, e.g. v5e:2x2, v4:4x4x4, v5p:8x8x8, v6e:4x4. Needs libtpu (Linux), and says how
to get it; no TPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import itertools
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from palm_jax.cache_directory import cache_dir
from palm_jax.cli import command_line
from palm_jax.compilation.collectives import collectives_of
from palm_jax.compilation.matmul_flops import matmul_flops
from palm_jax.configuration.load import load
from palm_jax.errors import UserError, closest
from palm_jax.training import flops
from palm_jax.training.plan import Plan
from palm_jax.training.setup import Setup, adapt_from_arguments, check_steps, replicated


@dataclasses.dataclass(frozen=True)
class Chip:
    """A generation of TPUs, by its data sheet (cloud.google.com/tpu/docs).

    Attributes:
      kind: as jax names it.
      memory: bytes of HBM.
      links: bytes/s that all links of a chip to its neighbours send together, one way.
      megacore: whether its two cores are one device.
    """

    kind: str
    memory: float
    links: float
    megacore: bool


CHIPS = {
    'v4': Chip('TPU v4', 32 * 2**30, 300e9, True),
    'v5e': Chip('TPU v5e', 16 * 2**30, 200e9, False),
    'v5p': Chip('TPU v5p', 95 * 2**30, 600e9, True),
    'v6e': Chip('TPU v6e', 32 * 2**30, 448e9, False),
}


def main(arguments: Sequence[str]) -> int:
    """Compiles once, or sweeps."""
    parser = argparse.ArgumentParser(
        prog='palm-jax compile-for',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--topology', required=True, help='e.g. v5e:2x4')
    parser.add_argument('--gin_file', action='append', required=True, help='as of palm_jax.train')
    parser.add_argument('--sweep', action='store_true', help='try meshes, batches and remat; name the best that fits')
    rest, flags = command_line.split_flags(arguments)
    options = parser.parse_args(rest)
    chip, devices = devices_of(options.topology)

    def compiled(*more: tuple[str, str]) -> Compiled:
        configuration = load('loop.train', options.gin_file, [*flags, *more])
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
    apart, installed = cache_dir() / 'libtpu', importlib.util.find_spec('libtpu')
    places = [apart / 'libtpu', *map(Path, installed.submodule_search_locations if installed else ())]
    found = next((place / 'libtpu.so' for place in places if (place / 'libtpu.so').is_file()), None)
    if found is None:
        raise UserError(
            'The TPU compiler is in libtpu, which is not here. Where JAX does not take it for a TPU:\n'
            f'  {shlex.join([sys.executable, "-m", "pip", "install", "--no-deps", f"--target={apart}", "libtpu"])}'
        )
    os.environ['TPU_LIBRARY_PATH'] = str(found)


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
        return math.prod(self.plan.axis_sizes.values())

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
    layout, data = arguments['layout'], arguments['data']
    model, selection = adapt_from_arguments(arguments, platform='tpu')
    optimizer, batch_size, total_steps = (arguments[name] for name in ('optimizer', 'batch_size', 'total_steps'))
    setup = Setup.of(model, selection, optimizer, layout, len(devices), batch_size, data.length, total_steps)
    plan, mesh, microbatches = setup.plan, layout.mesh(devices), arguments.get('microbatches', 1)
    check_steps(plan.batch_sizes, None, plan.axis_sizes['data'], microbatches, plan.total_steps)
    size = max(size for _, size in plan.batch_sizes.ramp)
    by_batch, on_all = NamedSharding(mesh, PartitionSpec('data')), replicated(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((size, *value.shape), value.dtype, sharding=by_batch)
        for name, value in data.blank().items()
    }
    rng = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=on_all)
    start, problem, memory, collectives = time.monotonic(), None, {}, {}
    with jax.set_mesh(mesh), nn.logical_axis_rules(layout.rules):
        traced = setup.train_step(mesh, arguments['loss'], microbatches).trace(setup.target(mesh), batch, rng)
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
    counted = matmul_flops(arguments['model'], data.length) * size
    return Compiled(plan, chip, seconds, memory, counted, collectives, problem)


def _in_short(error: str) -> str:
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    told = [line for line in lines if re.search(r'hbm|memory|exceed', line, re.IGNORECASE)]
    return ' '.join((told or lines)[:3])[:600]


def sweep(
    compiled: Callable[..., Compiled], options: argparse.Namespace, flags: Sequence[tuple[str, str]], num_devices: int
) -> None:
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
