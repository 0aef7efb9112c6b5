"""gin text and flags as statements with their locations."""

import pytest

from palm_jax.configuration.statements import (
    GinText,
    Macro,
    Reference,
    find_config,
    flag_location,
    given_in_python,
    held,
    open_file,
    read_all,
    read_flag,
    read_statements,
)
from palm_jax.errors import UserError


def test_statements_have_names_values_and_locations():
    text = "# a comment\nSTEPS = 5\nscope/loop.train:\n  model = @palm.PaLM()\n  steps = [%STEPS, 'a']\n"
    statements, imports = read_statements(GinText(text, 'mine.gin'))
    assert [s.name for s in statements] == ['STEPS', 'scope/loop.train.model', 'scope/loop.train.steps']
    assert [s.location for s in statements] == [f'mine.gin, line {line}' for line in (2, 4, 5)]
    assert statements[0].is_macro and (statements[1].selector, statements[1].parameter) == ('loop.train', 'model')
    assert statements[1].value == Reference('palm.PaLM', evaluated=True) and imports == []
    assert list(held(statements[2].value, Macro)) == [Macro('STEPS')]


@pytest.mark.parametrize(
    'value, parsed',
    [
        ('3', 3),
        ('runs/a b', 'runs/a b'),
        ("'3'", '3'),
        ('[1, 2]', [1, 2]),
        ('%X', Macro('X')),
        ('1 2', '1 2'),
        ('{a}', '{a}'),
    ],
)
def test_a_flag_is_gin_or_else_a_text(value, parsed):
    statement, text = read_flag('NAME', value)
    assert statement.value == parsed and text.startswith('NAME = ') and statement.is_given


def test_an_argument_in_python_is_not_called_a_flag():
    with given_in_python():
        statement, _ = read_flag('TRAIN_STEPS', '5')
        assert statement.location == 'argument TRAIN_STEPS=5' and statement.is_given
    assert flag_location('TRAIN_STEPS', '5') == 'command line, --gin.TRAIN_STEPS=5'
    assert len(flag_location('X', 'y' * 5000)) < 300


def test_files_of_other_systems_are_read(tmp_path):
    path = tmp_path / 'windows.gin'
    path.write_bytes(b"\xef\xbb\xbfSTEPS = 5\r\nNAME = '\xc3\xaf\xe2\x80\xa8'\r\n")
    statements, _ = read_statements(open_file(path))
    assert [(s.name, s.value) for s in statements] == [('STEPS', 5), ('NAME', 'ï\u2028')]


def test_includes_are_read_in_their_place_and_never_twice_in_a_chain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'part.gin').write_text('B = 2\n')
    (tmp_path / 'whole.gin').write_text("A = 1\ninclude 'part.gin'\ninclude 'part.gin'\nC = 3\n")
    statements, _ = read_statements(open_file(find_config('whole.gin', '--gin_file')))
    assert [s.name for s in statements] == ['A', 'B', 'B', 'C']  # twice in a row is not a circle
    (tmp_path / 'part.gin').write_text("include 'whole.gin'\n")
    with pytest.raises(
        UserError, match=r'part.gin, line 1: whole.gin includes itself: whole.gin → part.gin → whole.gin'
    ):
        read_statements(open_file(find_config('whole.gin', '--gin_file')))


def test_all_files_are_read_parts_first():
    names = [name for name, _, _ in read_all()]
    assert names.index('gin/peft/lora.gin') < names.index('gin/finetune_lora.gin')
