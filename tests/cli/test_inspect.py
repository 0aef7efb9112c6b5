"""Examples and statistics of a task as the model sees them."""

import re

import pytest

from palm_jax.cli import inspect
from palm_jax.errors import UserError
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def shown(capsys, *arguments):
    assert inspect.main([*arguments, '--examples=2', '--batches=2']) == 0
    return capsys.readouterr().out


def test_a_task_for_pretraining_with_its_objective(capsys, tmp_path):
    path = tmp_path / 'text.txt'
    path.write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(2000)))
    own = ('--gin.VOCABULARY=bytes', '--gin.VOCABULARY_SIZE=387', f'--gin.TRAIN_FILES={path}')
    output = shown(capsys, 'python_stdlib', *own, '--gin_file=gin/objectives/masked_lm.gin')
    assert '[MASK]' in output and '⟪' in output and 'padding      0.0%' in output
    counted = float(re.search(r'the loss +counts ([\d.]+)%', output)[1])
    assert 12 < counted <= 15
    assert re.search(r'sample +the first 64 sequences', output)


def test_a_task_for_fine_tuning(capsys, base_and_table, offline_tables):
    base = '='.join(base_and_table[1])
    output = shown(capsys, 'cldr_languages', f'--gin.{base}')
    assert re.search(r'label +\w+', output) and re.search(r'labels +\w+ \d+, \w+ \d+', output)
    output = shown(capsys, 'stdlib_tokens', f'--gin.{base}')
    assert 'B-' in output and 'labels  ' not in output
    output = shown(capsys, 'stdlib_sessions', f'--gin.{base}')
    assert 'target ' in output and 'the loss     counts' in output


def test_what_there_is_not(capsys):
    with pytest.raises(UserError, match=r"No task or mixture is called 'python_stdlb'. Did you mean python_stdlib\?"):
        inspect.main(['python_stdlb'])
    with pytest.raises(UserError, match='INITIAL_CHECKPOINT_PATH=runs/tiny'):
        inspect.main(['cldr_languages'])
