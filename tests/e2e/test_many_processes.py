"""Token caches and predictions that the processes of a job make together, whoever is killed: those of one process."""

import os
import signal
from unittest import mock

import pytest

from palm_jax import job
from tests.support.programs import run_here
from tests.support.waiting import wait_until

PROGRAM = 'tests.programs.small_pieces'


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


class Job:
    """A command that a launcher starts three times.

    Args:
      forks: starts it.
      command: module of the program, and its arguments.
      log: file for the output of all processes.
      find: returns the paths of the pieces with a suffix, such as that of their locks.
      environment: environment variables of all processes.
    """

    def __init__(self, forks, command, log, find, **environment):
        self.forks, self.command, self.log, self.find = forks, [*map(str, command)], log, find
        self.environment = environment

    def start(self, index, **more):
        launcher = {'SLURM_NTASKS': '3', 'SLURM_STEP_ID': '0', 'SLURM_PROCID': str(index)} | self.environment | more
        return self.forks.start(PROGRAM, self.command, self.log, **launcher)

    def start_stuck(self, index):
        """Start a process, and return its id once it has begun a piece, which it will not finish."""
        pid = self.start(index, STUCK='1')
        held = lambda: any(f'"pid": {pid},' in lock.read_text() for lock in self.find('.lock'))  # noqa: E731
        wait_until(lambda: held() or self.forks.ended(pid) is not None, seconds=120)
        assert held(), self.log.read_text()[-3000:]
        wait_until(lambda: self.find('.unfinished'))
        return pid

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)
        assert self.wait(pid) == -signal.SIGKILL

    def wait(self, pid):
        codes = []
        wait_until(lambda: codes.append(self.forks.ended(pid)) or codes[-1] is not None, seconds=240)
        return codes[-1]

    def finish_with_one_killed(self, num_pieces):
        """Two processes make all pieces but that of a third, which is killed, and then its piece, too."""
        stuck = self.start_stuck(1)
        others = [self.start(0), self.start(2)]
        wait_until(lambda: len(self.find('')) == num_pieces - 1 or any(map(self.forks.ended, others)), seconds=240)
        assert [self.forks.ended(pid) for pid in others] == [None, None], self.log.read_text()[-3000:]
        self.kill(stuck)
        assert [self.wait(pid) for pid in others] == [0, 0], self.log.read_text()[-3000:]
        late = self.start(1)  # a process that a launcher starts again finds everything there
        assert self.wait(late) == 0, self.log.read_text()[-3000:]

    def kill_all(self):
        for pid in [self.start_stuck(index) for index in range(3)]:
            self.kill(pid)


@pytest.fixture
def texts(tmp_path):
    (tmp_path / 'texts').mkdir()
    for number in range(150):
        lines = '\n'.join(f'{number} and {line} make {number + line}' for line in range(number % 11 + 3))
        (tmp_path / 'texts' / f'{number:03}.txt').write_text(lines)
    return tmp_path / 'texts'


def test_three_processes_make_the_cache_of_one(forks, texts, tmp_path):
    flags = ('python_stdlib', f'--gin.TRAIN_FILES={texts}', '--gin.VOCABULARY=sentencepiece')
    flags += ('--gin.VOCABULARY_SIZE=280', '--splits', 'train')

    def begin(name):
        folder = tmp_path / name

        def find(suffix):
            return [path for path in folder.glob('tokens/*/train.pieces/*') if path.suffix == suffix]

        return folder, Job(
            forks, ['palm_jax.cli.cache', *flags], tmp_path / f'{name}.log', find, PALM_JAX_CACHE=str(folder)
        )

    def run_one(name):
        with mock.patch.dict(os.environ, {'PALM_JAX_CACHE': str(tmp_path / name)}):
            result = run_here('palm_jax.cli.cache', *flags, '--verify')
        assert result.returncode == 0 and '1 file verified' in result.stdout, result.stderr
        return content(tmp_path / name)

    expected = run_one('one')
    assert {name.rsplit('/')[-1] for name in expected} > {'manifest.json', 'offsets.npy', 'tokens-00000.array_record'}
    folder, three = begin('many')
    three.finish_with_one_killed(num_pieces=4)
    assert content(folder) == expected
    assert three.log.read_text().count(' tokens of ') == 1  # the first process alone prints
    _, killed = begin('again')
    killed.kill_all()
    assert run_one('again') == expected


@pytest.mark.slow  # tests/e2e/test_infer.py has a fast one, of threads
def test_three_processes_write_the_predictions_of_one(forks, made, tmp_path):
    source = tmp_path / 'in.txt'
    source.write_text('\n'.join(f'the square of {i}' if i != 9 else 'x' * 500 for i in range(18)))

    def begin(name):
        output = tmp_path / name / 'out.jsonl'
        output.parent.mkdir()
        flags = [f'--gin_file={made}/base/config.gin', f'--input={source}', f'--output={output}', '--batch_size=4']

        def find(suffix):
            return [path for path in output.parent.glob('out.jsonl.pieces/0*') if path.suffix == suffix]

        return output.parent, Job(forks, ['palm_jax.cli.infer', *flags], tmp_path / f'{name}.log', find), flags

    folder, _, flags = begin('one')
    alone = run_here('palm_jax.cli.infer', *flags)
    assert alone.returncode == 0 and 'predicted  17 of 18 rows' in alone.stdout, alone.stderr[-3000:]
    expected = content(folder)
    assert expected.keys() == {'out.jsonl', 'out.jsonl.made_from.json'}

    folder, three, flags = begin('many')
    three.finish_with_one_killed(num_pieces=5)
    assert content(folder) == expected
    assert three.log.read_text().count('predicted  17 of 18 rows') == 1
    finished = run_here('palm_jax.cli.infer', *flags)  # a job of one does not write over a finished file
    assert finished.returncode == 2 and 'exists already, and is complete' in finished.stderr
    other = three.forks.start(PROGRAM, [*three.command, '--gin.TEMPERATURE=0.5'], three.log, JOB_COMPLETION_INDEX='4')
    assert three.wait(other) == 2 and 'is of something else: flags' in three.log.read_text()

    folder, killed, flags = begin('again')
    killed.kill_all()
    changed = run_here('palm_jax.cli.infer', *flags[:-1], '--batch_size=5')
    assert changed.returncode == 2 and 'out.jsonl.pieces is of another run (batch_size 4, now 5)' in changed.stderr
    assert run_here('palm_jax.cli.infer', *flags).returncode == 0
    assert content(folder) == expected


def test_what_launchers_set_is_understood():
    index = job.process_index
    assert index({}) is None and index({'SLURM_NTASKS': '8', 'SLURM_PROCID': '0'}) is None  # a batch script, not srun
    assert index({'SLURM_NTASKS': '8', 'SLURM_STEP_ID': '0', 'SLURM_PROCID': '3'}) == 3
    assert index({'SLURM_NTASKS': '1', 'SLURM_STEP_ID': '0', 'SLURM_PROCID': '0'}) is None  # srun --pty bash
    assert index({'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_COMM_WORLD_RANK': '1'}) == 1
    assert index({'PMI_SIZE': '2', 'PMI_RANK': '0'}) == 0  # MPICH
    assert index({'JAX_NUM_PROCESSES': '4', 'JAX_PROCESS_ID': '2', 'JAX_COORDINATOR_ADDRESS': 'x:1'}) == 2
    assert index({'JOB_COMPLETION_INDEX': '5'}) == 5  # a Kubernetes Job
