"""palm-jax compile-for --topology v5e:2x4 --gin_file=gin/pretrain_base.gin [--gin.NAME=value ...] [--sweep]

Compiles the train step of a run for TPUs that are not attached, with the real TPU compiler, and reports whether it
fits: memory per device, FLOPs compared with the paper's formula, the bytes of every collective, and a lower bound of
the step time. --sweep tries meshes, batch sizes and rematerialization policies, and reports the best that fits.

TOPOLOGY is a TPU generation and the shape of its chips, e.g. v5e:2x2, v4:4x4x4, v5p:8x8x8, v6e:4x4. Requires libtpu
(Linux), but no TPU; if it is missing, the message has the command that installs it.
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

import jax
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from palm_jax.cache_directory import cache_dir
from palm_jax.cli.parser import Parser, positive
from palm_jax.compilation.collectives import collectives_of
from palm_jax.compilation.matmul_flops import matmul_flops
from palm_jax.configuration.flags import split_flags
from palm_jax.configuration.load import load
from palm_jax.errors import UserError, closest
from palm_jax.training import flops
from palm_jax.training.checks import check_batches
from palm_jax.training.plan import Plan
from palm_jax.training.setup import Setup, adapt_from_arguments, replicated


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU generation, from its data sheet (cloud.google.com/tpu/docs).

    Attributes:
      kind: name in jax.
      memory: bytes of HBM.
      links: bandwidth of all links of a chip to its neighbors together, one way, in bytes/s.
      megacore: whether its two cores form one device.
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
    """Compile once, or sweep."""
    parser = Parser(
        prog='palm-jax compile-for',
        description=__doc__,
        example='palm-jax compile-for --topology=v5e:2x4 --gin_file=gin/pretrain_base.gin',
        takes_bindings=True,
    )
    parser.add_argument('--topology', required=True, help='e.g. v5e:2x4')
    parser.add_argument('--slices', type=positive, default=1, help='number of such slices, joined by a slower network')
    parser.add_argument('--gin_file', action='append', required=True, help='gin file of the run; may be repeated')
    parser.add_argument(
        '--sweep', action='store_true', help='try meshes, batch sizes and remat, and report the best that fits'
    )
    rest, flags = split_flags(arguments)
    options = parser.parse_args(rest)
    chip, devices = devices_of(options.topology, options.slices)
    if options.slices > 1:
        flags = [('MESH_SLICES', str(options.slices)), *flags]

    def compile_with(*more: tuple[str, str]) -> Compiled:
        configuration = load('loop.train', options.gin_file, [*flags, *more])
        return compile_step(configuration.build('loop.train'), chip, devices)

    if options.sweep:
        sweep(compile_with, options, flags, len(devices))
    else:
        print(compile_with().report())
    return 0


def devices_of(topology: str, slices: int = 1) -> tuple[Chip, list[Any]]:
    """Return the chip of a topology, and the devices of one or several such slices for the compiler.

    Raises:
      UserError: if there is no such generation or shape, or libtpu is missing.
    """
    generation, _, shape = topology.partition(':')
    if generation not in CHIPS or not re.fullmatch(r'\d+x\d+(x\d+)?', shape):
        raise UserError(
            f'--topology={topology}: expected a TPU generation and the shape of its chips, e.g. v5e:2x4.'
            f'{closest(generation, CHIPS)} Generations: {", ".join(CHIPS)}.'
        )
    _find_compiler()
    chip = CHIPS[generation]
    extra: dict[str, Any] = {'chip_config_name': 'megacore'} if chip.megacore else {}
    if slices > 1:
        extra['num_slices'] = slices
    try:
        found = topologies.get_topology_desc(platform='tpu', topology_name=topology, **extra)
    except Exception as error:  # the compiler rejects unknown shapes
        raise UserError(f'--topology={topology}: the TPU compiler rejects it ({str(error)[:300]}).') from None
    return chip, list(found.devices)


def _find_compiler() -> None:
    """Set the environment variables with which libtpu compiles on a machine without a TPU."""
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-8')
    os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
    # It uses no chip, so other processes may compile at the same time.
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
    if 'TPU_LIBRARY_PATH' in os.environ:
        return
    separate, installed = cache_dir() / 'libtpu', importlib.util.find_spec('libtpu')
    installed_in = installed.submodule_search_locations if installed else None
    folders = [separate / 'libtpu', *map(Path, installed_in or ())]
    found = next((folder / 'libtpu.so' for folder in folders if (folder / 'libtpu.so').is_file()), None)
    if found is None:
        raise UserError(
            'libtpu, which contains the TPU compiler, is not installed. Install it where JAX does not find it:\n'
            f'  {shlex.join([sys.executable, "-m", "pip", "install", "--no-deps", f"--target={separate}", "libtpu"])}'
        )
    os.environ['TPU_LIBRARY_PATH'] = str(found)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A train step that the TPU compiler compiled.

    Attributes:
      plan: plan of the run.
      chip: chip that it was compiled for.
      seconds: compile time in seconds.
      memory: bytes per device by content.
      counted_flops: FLOPs of the matrix products of a step on all devices, without recomputation.
      collectives: (calls per step, bytes per call) by kind and shape.
      problem: message of the compiler if it fails; None if it succeeds.
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
        """Tokens per step."""
        return max(size for _, size in self.plan.batch_sizes.ramp) * self.plan.length

    @property
    def formula_flops(self) -> float:
        """FLOPs per step by the paper's formula."""
        return self.plan.flops_per_token * self.tokens

    @property
    def num_devices(self) -> int:
        """Number of devices of the mesh."""
        return math.prod(self.plan.axis_sizes.values())

    @property
    def peak_flops(self) -> float:
        """Peak FLOP/s of a device."""
        peak = flops.peak(self.chip.kind)
        assert peak is not None, f'no peak FLOP/s for {self.chip.kind}'
        return peak

    @property
    def compute_seconds(self) -> float:
        """Seconds of matrix products per step at peak FLOP/s."""
        return self.formula_flops / (self.num_devices * self.peak_flops)

    @property
    def collective_seconds(self) -> float:
        """Seconds of collectives per step, if every byte uses all links of a chip."""
        return sum(times * size for times, size in self.collectives.values()) / self.chip.links

    @property
    def bound_seconds(self) -> float:
        """Seconds that a step takes at least: the products, with the bubble of a pipeline, or the collectives."""
        schedule = self.plan.layout.schedule
        bubble = 0.0 if schedule is None else schedule.bubble
        return max(self.compute_seconds / (1 - bubble), self.collective_seconds)

    @property
    def fits(self) -> bool:
        """Whether it compiled and fits in the memory of the chip."""
        return self.problem is None and sum(self.memory.values()) <= self.chip.memory

    def summary_line(self) -> str:
        """Return one line: whether it fits, and the upper bound of its speed."""
        if self.problem is not None:
            return f'compilation failed: {self.problem[:100]}'
        bound = self.bound_seconds
        used = sum(self.memory.values()) / 2**30
        fits = 'fits' if self.fits else 'does not fit'
        return f'{fits}, {used:.2f} GiB per device, at most {self.tokens / bound:,.0f} tokens/s'

    def report(self) -> str:
        """Return the full report."""
        lines = [self.plan.summary(None), f'compiled   for {self.chip.kind} in {self.seconds:.0f} s']
        if self.problem is not None:
            return '\n'.join([*lines, f'compilation failed: {self.problem}'])
        used = sum(self.memory.values())
        parts = ', '.join(f'{name} {size / 2**30:.2f}' for name, size in self.memory.items())
        share = self.counted_flops / self.formula_flops
        lines += [
            f'memory     {used / 2**30:.2f} of {self.chip.memory / 2**30:.0f} GiB per device ({parts}): '
            f'{"fits" if self.fits else "does not fit"}',
            f'FLOPs      {self.counted_flops:.4g} per step in matrix products, {share:.1%} of the formula',
            'collectives per step and device',
        ]
        ordered = sorted(self.collectives.items(), key=lambda item: -item[1][0] * item[1][1])
        lines += [
            f'    {times * size / 2**20:>12,.1f} MiB  {times:>6} × {name}' for name, (times, size) in ordered[:12]
        ]
        if len(ordered) > 12:
            rest = sum(times * size for _, (times, size) in ordered[12:])
            lines.append(f'    {rest / 2**20:>12,.1f} MiB  {len(ordered) - 12} other kinds')
        bound = self.bound_seconds
        lines += [
            f'bound      {bound:.3g} s per step: {self.compute_seconds:.3g} s of matrix products at '
            f'{self.peak_flops:.3g} FLOP/s, {self.collective_seconds:.3g} s of collectives at '
            f'{self.chip.links:.3g} B/s',
            '           (products at peak without recomputation; collectives on all links, overlapping the products'
            f'{"; the network between slices is not counted" if self.plan.layout.slices > 1 else ""})',
            f'           {self.tokens / bound:,.0f} tokens/s at most, MFU at most {self.compute_seconds / bound:.0%}',
        ]
        return '\n'.join(lines)


def compile_step(arguments: Mapping[str, Any], chip: Chip, devices: list[Any]) -> Compiled:
    """Compile the step of `loop.train(**arguments)` for devices that are not attached."""
    layout, data = arguments['layout'], arguments['data']
    model, selection = adapt_from_arguments(arguments, platform='tpu')
    optimizer, batch_size, total_steps = (arguments[name] for name in ('optimizer', 'batch_size', 'total_steps'))
    base_weights, wrappers = arguments.get('base_weights', 'stored'), arguments.get('loss_wrappers', ())
    sizes = len(devices), batch_size, data.length, total_steps
    microbatches = arguments.get('microbatches', 1)
    setup = Setup.of(model, selection, optimizer, layout, *sizes, base_weights, wrappers, microbatches)
    setup = setup.around(arguments['loss'], data.blank)
    plan, mesh = setup.plan, layout.mesh(devices)
    check_batches(plan.batch_sizes, None, plan.axis_sizes['data'], microbatches, layout.schedule)
    size = max(size for _, size in plan.batch_sizes.ramp)
    by_batch, on_all = NamedSharding(mesh, PartitionSpec('data')), replicated(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((size, *value.shape), value.dtype, sharding=by_batch)
        for name, value in data.blank().items()
    }
    rng = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=on_all)
    start, problem = time.monotonic(), None
    memory: dict[str, float] = {}
    collectives: dict[str, tuple[int, float]] = {}
    with layout.on(mesh):
        train_step = setup.train_step(mesh, arguments['loss'], microbatches)
        teachers = setup.teachers_target(mesh)
        traced = train_step.trace(setup.target(mesh), batch, rng, **({'teachers': teachers} if teachers else {}))
        try:
            compiled = traced.lower(lowering_platforms=('tpu',)).compile()
        except jax.errors.JaxRuntimeError as error:
            problem = _shorten(str(error))
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


def _shorten(error: str) -> str:
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    relevant = [line for line in lines if re.search(r'hbm|memory|exceed', line, re.IGNORECASE)]
    return ' '.join((relevant or lines)[:3])[:600]


def sweep(
    compile_with: Callable[..., Compiled],
    options: argparse.Namespace,
    flags: Sequence[tuple[str, str]],
    num_devices: int,
) -> None:
    """Try powers of two for `model`, up to eight times the batch size, and every remat policy; print a line for each.

    Larger batches are skipped if a smaller one does not fit, and more recomputation if less leaves enough memory.
    """
    batch_size = dict(flags).get('BATCH_SIZE')
    if batch_size is None or not batch_size.isdigit():
        raise UserError('--sweep multiplies BATCH_SIZE, which must be set: --gin.BATCH_SIZE=32')
    results: list[tuple[Compiled, str]] = []
    fitting: set[tuple[int, int]] = set()  # (devices along `model`, factor of the batch size) that fit
    for mesh_model, remat in itertools.product((1, 2, 4, 8), ('none', 'minimal', 'full')):
        if num_devices % mesh_model or (mesh_model, 8) in fitting:
            continue
        for factor in (1, 2, 4, 8):
            changes = [('MESH_MODEL', str(mesh_model)), ('MESH_DATA', '-1'), ('REMAT', remat)]
            changes.append(('BATCH_SIZE', str(int(batch_size) * factor)))
            name = ' '.join(f'--gin.{key}={value}' for key, value in changes)
            try:
                result = compile_with(*changes)
            except UserError as error:
                print(f'{name}: {error}', flush=True)
                break
            print(f'{name}: {result.summary_line()}', flush=True)
            if not result.fits:
                break
            results.append((result, name))
            fitting.add((mesh_model, factor))
    if not results:
        raise UserError(f'Nothing fits {options.topology}: use more chips, a smaller batch size or a smaller model.')
    # Relative cost: recomputing everything repeats the forward pass (a third); keeping matrix products, little.
    cost = {'none': 1.0, 'minimal': 1.05, 'full': 4 / 3}
    best = min(
        results,
        key=lambda r: (
            max(r[0].compute_seconds * cost[r[0].plan.model.arch.remat], r[0].collective_seconds) / r[0].tokens
        ),
    )
    print(f'\nbest of those that fit:\n  {best[1]}\n{best[0].report()}')
