"""Help and mistakes of the command lines of all programs."""

import argparse
import importlib
import shlex
from typing import Annotated

import pytest

from palm_jax.bounds import Above, AtLeast, AtMost
from palm_jax.cli import main as programs
from palm_jax.cli.parser import Parser, file_name, number
from palm_jax.errors import UserError

PROGRAMS = [name for name in programs.PROGRAMS if name != 'lm-eval']  # whose flags are the harness's


class Caught(Exception):
    """The parser of a program."""


def parser_of(program, monkeypatch):
    def catch(self, args=None, namespace=None):
        raise Caught(self)

    module = importlib.import_module(f'palm_jax.cli.{programs.PROGRAMS[program][0]}')
    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', catch)
    with pytest.raises(Caught) as caught:
        module.main([])
    return caught.value.args[0]


@pytest.mark.parametrize('program', PROGRAMS)
def test_help_names_every_default(program, monkeypatch):
    parser = parser_of(program, monkeypatch)
    assert isinstance(parser, Parser)
    formatter = parser._get_formatter()
    for action in parser._actions:
        text = formatter._expand_help(action) if action.help else ''
        assert text, f'{program}: {action.dest}'
        if action.option_strings and not action.required and action.nargs != 0:
            assert 'default: ' in text, f'{program}: {action.option_strings[0]}: {text}'
    assert all(len(line) <= 120 for line in parser.format_help().splitlines())


def refused(arguments, monkeypatch):
    monkeypatch.setattr('sys.argv', ['palm-jax'])
    with pytest.raises(UserError) as refusal:
        programs.main(arguments.split())
    return str(refusal.value)


def test_a_flag_that_needs_another_is_refused_without_it():
    parser = Parser(prog='program')
    parser.add_argument('--earlier', help='file of the earlier tasks')
    parser.add_argument('--kind', default='soup')
    parser.add_argument('--decay', default=1.0, type=float, needs='--earlier')
    parser.add_argument('--share', needs='--kind=ties')
    with pytest.raises(
        UserError, match=r'--decay requires --earlier \(file of the earlier tasks\): without it --decay'
    ):
        parser.parse_args(['--decay=1'])  # also where it has its default
    with pytest.raises(UserError, match='--share requires --kind=ties: without it --share has no effect'):
        parser.parse_args(['--share', '1', '--kind=dare'])
    assert parser.parse_args(['--decay', '0.5', '--earlier', 'a.npz']).decay == 0.5
    assert parser.parse_args(['--share=1', '--kind=ties']).share == '1'


@pytest.mark.parametrize(
    'arguments, advice',
    [
        ('train --gin_fil=gin/pretrain_tiny.gin', 'Did you mean --gin_file=gin/pretrain_tiny.gin?'),
        ('train --gin-file gin/pretrain_tiny.gin', 'Did you mean --gin_file?'),
        ('train --gin_file=gin/pretrain_tiny.gin --TRAIN_STEPS=3', 'Did you mean --gin.TRAIN_STEPS=3?'),
        ('train --gin_file=gin/pretrain_tiny.gin gin.TRAIN_STEPS=3', 'Did you mean --gin.TRAIN_STEPS=3?'),
        ('train --gin_file=gin/pretrain_tiny.gin TRAIN_STEPS=3', 'Did you mean --gin.TRAIN_STEPS=3?'),
        ('train --gin_file=gin/pretrain_tiny.gin -gin.TRAIN_STEPS=3', 'Did you mean --gin.TRAIN_STEPS=3?'),
        ('train --gin_file=gin/pretrain_tiny.gin --train_steps=3', 'Did you mean --gin.TRAIN_STEPS=3?'),
        ('train --gin_file=gin/pretrain_tiny.gin --learning-rate 0.1', 'Did you mean --gin.LEARNING_RATE?'),
        ('train --gin_file=gin/pretrain_tiny.gin palm.Architecture.d_model=8', '--gin.palm.Architecture.d_model=8?'),
        ('train --gin_file=gin/pretrain_tiny.gin --explian', 'Did you mean --explain?'),
        ('train gin/pretrain_tiny.gin', 'Example: palm-jax train --gin_file=gin/pretrain_tiny.gin'),
        ('compare runs/a runs/b runs/c', "'runs/c' is one argument too many"),
        ('train', '--gin_file is missing: entry file of a run (gin/finetune_lora.gin, gin/pretrain_base.gin, gin/'),
        ('infer --gin_file=runs/a/config.gin --input=a.txt', '--output is missing: .jsonl file to write'),
        ('eval --gin_file=runs/a/config.gin --exampels=3', 'Did you mean --examples=3?'),
        ('export --gin_file=runs/a/config.gin --format=hff out', 'Did you mean hf?'),
        ('export --gin_file=runs/a/config.gin gin.TRAIN_STEPS=3', 'Did you mean --gin.TRAIN_STEPS=3?'),
        ('serve --model=runs/a --prot=80', 'Did you mean --port=80?'),
        ('serve runs/a', 'palm-jax serve --model=runs/tiny'),
        ('checkpoint lss runs/a', 'Did you mean ls?'),
        ('checkpoint convert runs/a runs/b --dtype=float', 'Did you mean float32?'),
        ('compare runs/a', 'palm-jax compare runs/first runs/second'),
        ('predict', 'Did you mean infer?'),
        ('trian', 'Did you mean train?'),
    ],
)
def test_mistakes_get_advice(arguments, advice, monkeypatch):
    assert advice in refused(arguments, monkeypatch)


def test_a_missing_flag_has_an_example_that_the_program_accepts(monkeypatch):
    for program in PROGRAMS:
        parser = parser_of(program, monkeypatch)
        monkeypatch.undo()
        if parser._example:
            prog, *arguments = shlex.split(parser._example.removeprefix('palm-jax '))
            assert parser.prog.endswith(prog)
            parser.parse_args(arguments)


def test_help_and_version_are_programs(capsys):
    assert programs.main(['help']) == 0
    assert programs.main(['version']) == 0
    assert 'usage: palm-jax <program>' in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        programs.main(['help', 'compare'])
    assert ended.value.code == 0 and 'usage: palm-jax compare' in capsys.readouterr().out


def test_a_value_in_a_word_of_its_own_is_not_a_binding(monkeypatch):
    parser = parser_of('serve', monkeypatch)
    monkeypatch.undo()
    assert parser.parse_args(['--model', 'A=runs/a']).model == ['A=runs/a']


@pytest.mark.parametrize(
    'hint, good, bad, words',
    [
        (
            Annotated[int, AtLeast(1)],
            {'12': 12},
            ('0', '-3', '1.5', 'ten', '', '9' * 5000),
            'a whole number of at least 1',
        ),
        (Annotated[float, Above(0)], {'0.5': 0.5}, ('inf', 'nan', '0', '-1', 'x'), 'a finite number above 0'),
        (Annotated[int, AtLeast(0), AtMost(9)], {'9': 9}, ('10',), 'of at least 0 and at most 9'),
    ],
)
def test_numbers_are_inside_their_bounds(hint, good, bad, words):
    for text, value in good.items():
        assert number(hint)(text) == value
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f'must be .*{words}'):
            number(hint)(text)


def test_a_file_to_write_has_its_ending():
    assert file_name('.jsonl')('a/b.jsonl').name == 'b.jsonl'
    for text in ('z.txt', '', 'jsonl'):
        with pytest.raises(argparse.ArgumentTypeError, match=r'must end in \.jsonl'):
            file_name('.jsonl')(text)
