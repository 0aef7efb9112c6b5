"""Exceptions that Python cannot propagate, above all Ctrl-C, in every program."""

import os
import resource
import signal
import sys

import numpy as np
import pytest
import safetensors.numpy
from array_record.python.array_record_module import ArrayRecordWriter

from palm_jax.cli import command_line
from palm_jax.errors import UserError
from tests.support.programs import run_here, run_script


def test_ctrl_c_where_python_drops_it_ends_the_program_all_the_same():
    result = run_script('interrupted')
    assert (result.returncode, result.stdout, result.stderr) == (130, '', 'interrupted\n')


@pytest.mark.parametrize('told, text', [(False, 'Event loop is closed'), (True, 'no disk')])
def test_only_what_is_told_elsewhere_is_dropped(told, text):
    result = run_script('drops_an_exception', text)
    assert result.returncode == 0
    assert (f'RuntimeError: {text}' in result.stderr) == bool(result.stderr) == told


def test_ctrl_c_within_a_trace_that_swallows_it_ends_the_program():
    result = run_script('interrupted_tracing')
    assert (result.returncode, result.stdout, result.stderr) == (130, '', 'interrupted\n')


def test_ctrl_c_within_an_import_that_swallows_it_ends_the_program():
    result = run_script('interrupted_import')
    assert (result.returncode, result.stdout, result.stderr) == (130, '', 'interrupted\n')


@pytest.mark.parametrize('name', ['x' * 300, 'loop'])
def test_a_name_that_no_file_can_have_is_one_message(tmp_path, name):
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    path, config = tmp_path / name, f'--gin_file={tmp_path / name}/config.gin'
    (tmp_path / 'in.txt').write_text('a')
    for module, *arguments in (
        ('train', f'--gin_file={path}'),
        (
            'train',
            '--gin_file=gin/pretrain_tiny.gin',
            f'--gin.MODEL_DIR={path}',
            f'--gin.TRAIN_FILES={tmp_path}/in.txt',
        ),
        ('train', '--gin_file=gin/pretrain_tiny.gin', '--explain', f'--gin.TRAIN_FILES={path}'),
        ('infer', config, f'--input={tmp_path}/in.txt', f'--output={tmp_path}/out.jsonl'),
        ('infer', '--gin_file=gin/config.gin', f'--input={path}', f'--output={tmp_path}/out.jsonl'),
        ('infer', '--gin_file=gin/config.gin', f'--input={tmp_path}/in.txt', f'--output={path}.jsonl'),
        ('eval', config),
        ('serve', f'--model={path}'),
        ('export', config, f'{tmp_path}/out'),
        ('import_weights', f'{path}', f'{tmp_path}/out'),
        ('checkpoint', 'ls', f'{path}'),
        ('compare', f'{path}', f'{path}'),
        ('drift', config, f'--requests={path}'),
        ('fuse', f'{path}', f'{path}', f'{tmp_path}/out'),
    ):
        result = run_here(f'palm_jax.cli.{module}', *arguments)
        assert result.returncode == 2, (module, arguments)
        assert result.stderr.count('error: ') == 1 and 'Traceback' not in result.stderr, result.stderr


def test_a_file_that_a_program_writes_at_its_end_is_checked_at_its_beginning(tmp_path, monkeypatch):
    assert command_line.writable(tmp_path / 'new.json') == tmp_path / 'new.json'
    with pytest.raises(UserError, match=r'--output: the folder .*/nothing does not exist'):
        command_line.writable(tmp_path / 'nothing' / 'a.json')
    (tmp_path / 'folder.json').mkdir()
    with pytest.raises(UserError, match=r'folder\.json cannot be written\. Name another file'):
        command_line.writable(tmp_path / 'folder.json')
    monkeypatch.setattr(os, 'access', lambda path, mode: False)  # what a read-only folder says, to root as well
    with pytest.raises(UserError, match=r'new\.json cannot be written.*--output=new\.json'):
        command_line.writable(tmp_path / 'new.json')


def by_safetensors(path):
    safetensors.numpy.save_file({'a': np.zeros(50_000)}, path)


def by_array_record(path):
    writer = ArrayRecordWriter(str(path), 'group_size:1')
    for _ in range(50):
        writer.write(np.random.default_rng(0).bytes(9_000))
    writer.close()


def by_python(path):
    path.write_bytes(bytes(400_000))


@pytest.mark.parametrize('write', [by_safetensors, by_array_record, by_python])
def test_a_full_disk_is_one_message_whichever_library_meets_it(tmp_path, monkeypatch, capsys, write):
    """A limit on the size of files gives the error of a full disk."""
    monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)
    interrupt, (soft, hard) = signal.getsignal(signal.SIGINT), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(SystemExit) as ended:
            command_line.run(lambda _: write(tmp_path / 'file'))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGINT, interrupt)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and 'File too large' in told and told.startswith('error: ') and told.count('\n') == 1
