"""Exceptions that Python cannot propagate, above all Ctrl-C, in every program; the file that it writes."""

import pytest

from palm_jax.cli import command_line
from palm_jax.errors import UserError
from tests.support.programs import run_script


def test_ctrl_c_where_python_drops_it_ends_the_program_all_the_same():
    result = run_script('interrupted')
    assert (result.returncode, result.stdout, result.stderr) == (130, '', 'interrupted\n')


@pytest.mark.parametrize('told, text', [(False, 'Event loop is closed'), (True, 'no disk')])
def test_only_what_is_told_elsewhere_is_dropped(told, text):
    result = run_script('drops_an_exception', text)
    assert result.returncode == 0
    assert (f'RuntimeError: {text}' in result.stderr) == bool(result.stderr) == told


def test_ctrl_c_within_an_import_that_swallows_it_ends_the_program():
    result = run_script('interrupted_import')
    assert (result.returncode, result.stdout, result.stderr) == (130, '', 'interrupted\n')


def test_an_output_is_written_to_a_folder_that_exists(tmp_path):
    assert command_line.output_file(tmp_path / 'page.html') == tmp_path / 'page.html'
    with pytest.raises(UserError, match=r'--output: the folder .*none does not exist'):
        command_line.output_file(tmp_path / 'none' / 'page.html')
