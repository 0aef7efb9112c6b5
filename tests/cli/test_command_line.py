"""Exceptions that Python cannot propagate, above all Ctrl-C, in every program."""

import pytest

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
