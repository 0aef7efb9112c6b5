"""Back-translation through commands and runs, and what a command may do wrong."""

import shlex
import sys

import pytest

from palm_jax import api
from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError
from palm_jax.synthesis.back_translation import BackTranslation, CommandTranslator, RunTranslator
from palm_jax.synthesis.maker import Sampling
from tests.support.old_runs import RUNS


def program(code):
    """A command that runs Python code with the lines of its standard input in `lines`."""
    start = "import sys; sys.stdin.reconfigure(encoding='utf-8'); sys.stdout.reconfigure(encoding='utf-8')\n"
    start += "lines = sys.stdin.read().split('\\n')[:-1]\n"
    return CommandTranslator(shlex.join([sys.executable, '-c', start + code]))


UPPER = program('[print(line.upper()) for line in lines]')
REVERSED = program("[print(' '.join(reversed(line.split()))) for line in lines]")


def made(translators, texts, copy=0, first=0):
    rows = [Row({'text': text}, 'x') for text in texts]
    return BackTranslation(translators).make(rows, texts, copy, first)


def test_commands_translate_line_by_line_in_order():
    texts = ['où est la gare ?', 'two\nlines\n\nand one', '\u2028 \u0085 no line ends', 'x' * 5000, 'a\r\nb']
    assert made([UPPER, REVERSED], texts) == [
        '? GARE LA EST OÙ',
        'TWO\nLINES\n\nONE AND',
        'ENDS LINE NO',
        'X' * 5000,
        'A\n\nB',
    ]
    assert not BackTranslation([UPPER, REVERSED]).is_random


def test_a_text_that_is_lost_on_the_way_stays_lost():
    drops = program("[print('' if line == 'b' else line) for line in lines]")
    assert made([drops, UPPER], ['a', 'b', 'c']) == ['A', '', 'C']
    assert made([drops, UPPER], ['b']) == ['']


def test_files_in_place_of_streams(tmp_path):
    code = "import sys; open(sys.argv[2], 'w').write(open(sys.argv[1]).read().replace('a', 'o'))"
    template = f'{shlex.join([sys.executable, "-c", code])} {{input}} {{output}}'
    assert made([CommandTranslator(template)], ['banana', 'cat']) == ['bonono', 'cot']


@pytest.mark.parametrize(
    'translator, message',
    [
        (CommandTranslator('no-such-program eng-spa'), r"'no-such-program eng-spa': no-such-program cannot be started"),
        (CommandTranslator(''), 'is not a command line'),
        (CommandTranslator('sed "s/a'), 'is not a command line: No closing quotation'),
        (program("sys.exit('no mode eng-xyz')"), r'ended with code 1:\s+no mode eng-xyz'),
        (program("print('one line')"), 'has written 1 lines for 2; it must write one for each'),
        (program("sys.stdout.buffer.write(b'\\xff\\n\\n')"), 'has not written UTF-8'),
    ],
)
def test_what_a_command_does_wrong_is_one_message(translator, message):
    with pytest.raises(UserError, match=message):
        made([translator], ['one', 'two'])


def test_runs_translate_by_seed_and_row(monkeypatch):
    monkeypatch.chdir(RUNS)
    model = api.load('writer')
    greedy = RunTranslator(model, Sampling(temperature=0.0))
    texts = ['number 7 is odd', 'number 500 is even', 'number 31 is']
    assert greedy.translate(texts, 0, 0) == model.generate(texts) and not greedy.is_random
    sampled = RunTranslator(model, Sampling(seed=3, temperature=2.0))
    whole = sampled.translate(texts, 1, 0)
    assert sampled.translate(texts, 1, 0) == whole and sampled.translate(texts[1:], 1, 1) == whole[1:]
    assert sampled.translate(texts, 2, 0) != whole != RunTranslator(model, Sampling(4, 2.0)).translate(texts, 1, 0)
    assert BackTranslation([UPPER, sampled]).is_random
    assert sampled.depends_on() != greedy.depends_on()
