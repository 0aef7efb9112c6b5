"""Steps compiled for TPUs that are not attached: they fit, their FLOPs are the paper's, collectives are counted."""

import re
import shlex
import subprocess

import jax
import pytest

from palm_jax.cli import compile_for
from palm_jax.compilation.collectives import collectives_of
from palm_jax.compilation.matmul_flops import matmul_flops
from palm_jax.configuration.load import load
from palm_jax.errors import UserError
from palm_jax.training import flops
from tests.support.interpreter import Interpreter
from tests.support.paths import ROOT

SIZES = {'8b': 256_000, '62b': 256_000, '540b': 256_000}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


TINY = ('--topology=v5e:2x2', '--gin_file=gin/pretrain_tiny.gin', '--gin.VOCABULARY=bytes')


@pytest.fixture(scope='module')
def compiled():
    """Runs the program; installs the TPU compiler, if it is missing, with the command that the program prints."""
    with Interpreter(XLA_FLAGS='') as interpreter:  # the flags of the tests are not known to every libtpu

        def run(*arguments):
            return interpreter.run('palm_jax', 'compile-for', *arguments)

        asked = run(*TINY, '--sweep')
        if command := re.search(r'^  (.* pip install .*)$', asked.stderr, re.MULTILINE):
            if subprocess.run(shlex.split(command[1]), capture_output=True, check=False).returncode:
                pytest.skip('libtpu cannot be had here')
            asked = run(*TINY, '--sweep')
        assert asked.returncode == 2 and '--sweep multiplies BATCH_SIZE' in asked.stderr, asked.stderr[-2000:]
        yield run


@pytest.mark.slow
def test_base_for_four_chips(compiled):
    result = compiled('--topology=v5e:2x2', '--gin_file=gin/pretrain_base.gin', '--gin.VOCABULARY=bytes')
    assert result.returncode == 0, result.stderr[-3000:]
    for shown in ('of 16 GiB per device', ': fits', '100.0% of the formula', '× all-gather', 'bound', 'MFU at most'):
        assert shown in result.stdout, result.stdout


def test_another_objective_and_a_mesh_that_does_not_fit(compiled):
    result = compiled(*TINY, '--gin_file=gin/objectives/prefix_lm.gin', '--slices=2')
    assert result.returncode == 0 and 'data = 8' in result.stdout, result.stderr[-3000:]
    assert ': fits' in result.stdout and 'the network between slices is not counted' in result.stdout
    for flags, message in (
        (['--gin.MESH_MODEL=3'], 'does not fit 4 devices'),
        (['--gin.BATCH_SIZE=6'], '4 or 8 would do'),
    ):
        refused = compiled(*TINY, *flags)
        assert refused.returncode == 2 and message in refused.stderr and 'Traceback' not in refused.stderr


@pytest.mark.parametrize('size', SIZES)
def test_the_matmuls_of_a_step_are_those_of_the_papers_formula(size):
    flags = [('VOCABULARY', 'bytes'), ('VOCABULARY_SIZE', str(SIZES[size]))]
    model = load('loop.train', ['gin/pretrain_base.gin', f'gin/models/{size}.gin'], flags).build('loop.train')['model']
    counted = matmul_flops(model, 2048) / 2048
    of_paper = {'8b': 0.0550e12, '62b': 0.388e12, '540b': 3.28e12}[size]  # appendix B, without rematerialization
    assert counted == pytest.approx(of_paper, rel=0.05)
    shapes = jax.eval_shape(
        lambda rng: model.init(rng, jax.numpy.zeros((1, 8), int), method='init_all'), jax.random.key(0)
    )
    num_params = sum(x.size for x in jax.tree.leaves(shapes))
    assert counted == pytest.approx(flops.per_token(num_params, model.arch, 2048), rel=0.001)


PROGRAM = """
HloModule jit_step

%body (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %ag = bf16[32,8]{1,0} all-gather(bf16[4,8]{1,0} %x), dimensions={0}
  %start = (bf16[4,8]{1,0}, bf16[32,8]{1,0}) all-gather-start(bf16[4,8]{1,0} %x), dimensions={0}
}

%all-reduce-scatter.1 (input: f32[32,8]) -> f32[4,8] {
  %whole = f32[32,8]{1,0} all-reduce(f32[32,8]{1,0} %input), to_apply=%add
  ROOT %part = f32[4,8]{1,0} dynamic-slice(f32[32,8]{1,0} %whole, s32[] %start, s32[] %zero), dynamic_slice_sizes={4,8}
}

%condition (p: (s32[], bf16[4,8])) -> pred[] {
  %limit = s32[] constant(12)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (a: f32[16]) -> f32[16] {
  %sum = f32[16]{0} all-reduce(f32[16]{0} %a), to_apply=%add
  %fused = f32[4,8]{1,0} fusion(f32[32,8]{1,0} %g), kind=kCustom, calls=%all-reduce-scatter.1
  %rs = f32[8,8]{1,0} reduce-scatter(f32[32,8]{1,0} %g), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %loop = (s32[], bf16[4,8]) while((s32[], bf16[4,8]) %init), condition=%condition, body=%body
}
"""


def test_collectives_of_a_loop_count_as_often_as_it_runs():
    found = collectives_of(PROGRAM)
    assert found['all-gather bf16[32,8]'] == (12, 512.0)
    assert found['all-gather (bf16[4,8], bf16[32,8])'] == (12, 512.0)
    assert len(found) == 5


def test_collectives_count_the_bytes_that_a_device_sends_in_a_ring():
    found = collectives_of(PROGRAM)
    assert found['all-reduce f32[16]'] == (1, 128.0)  # a reduce-scatter, and an all-gather of its result
    assert found['reduce-scatter f32[32,8]'] == (1, 1024.0)  # as the TPU compiler writes it
    assert found['reduce-scatter f32[8,8] × 4'] == (1, 1024.0)


@pytest.mark.parametrize(
    'topology, message',
    [
        ('v5:2x2', 'Did you mean v5[ep]'),
        ('v5e', 'a TPU generation and the shape of its chips'),
        ('v5e:two', 'e.g. v5e:2x4'),
    ],
)
def test_a_bad_topology_is_said(topology, message):
    with pytest.raises(UserError, match=message):
        compile_for.devices_of(topology)
