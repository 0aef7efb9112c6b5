"""`palm-jax bindings`: everything that gin can set is listed with its type, bounds, source and meaning."""

import pytest

from palm_jax.cli import bindings
from palm_jax.configuration import reference
from palm_jax.configuration.statements import open_file, read_statements
from palm_jax.errors import UserError
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope='module')
def everything():
    return reference.read(reference.package_files())


def listed(capsys, *arguments):
    assert bindings.main(arguments) == 0
    return capsys.readouterr().out


def test_every_macro_and_every_binding_of_every_file_is_listed(everything):
    names = {binding.name for binding in everything}
    for path in reference.package_files():
        for statement in read_statements(open_file(path))[0]:
            name = statement.name if statement.is_macro else f'{statement.selector}.{statement.parameter}'
            assert name in names


def test_every_macro_that_a_parameter_reads_has_a_type_and_a_sentence(everything):
    lacking = [b.name for b in everything if b.is_macro and b.bound_to and not (b.type and b.description)]
    assert not lacking


def test_a_macro_shows_value_location_type_bounds_and_meaning(capsys):
    text = listed(capsys, 'LORA_RANK')
    assert 'LORA_RANK = 8  (gin/peft/lora.gin, line' in text
    assert 'a whole number, at least 1, read by lora.LoRA.rank\n    Rank R of A·B.' in text


def test_patterns_are_parts_of_names_or_globs_in_any_case(capsys):
    assert 'optimizers.muon.momentum = 0.95' in listed(capsys, 'MOMENTUM')
    assert {line.split()[0] for line in listed(capsys, 'keep_*').splitlines() if line[0] != ' '} == {
        'KEEP_CHECKPOINTS',
        'KEEP_EVERY',
    }
    with pytest.raises(UserError, match=r"No macro or parameter matches 'LORA_RNAK'\. Did you mean LORA_RANK\?"):
        bindings.main(['LORA_RNAK'])


def test_of_a_run_the_values_that_hold_are_shown_with_their_source(capsys):
    entry = '--gin_file=gin/pretrain_tiny.gin'
    text = listed(capsys, entry, '--gin.LEARNING_RATE=0.5', 'LEARNING_RATE')
    assert 'LEARNING_RATE = 0.5  (command line, --gin.LEARNING_RATE=0.5)' in text and '0.02' not in text
    assert 'EVAL_PERIOD = 100  (gin/pretrain_tiny.gin, line' in listed(capsys, entry, 'EVAL_PERIOD')


def test_descriptions_are_the_first_sentences_of_docstrings():
    def function(rank, alpha, other):
        """A part.

        Args:
          rank: number of columns,
            e.g. 8. More is slower.
          alpha, other: factors.

        Returns:
          none: not an argument.
        """

    found = reference.descriptions(function)
    assert found == {'rank': 'Number of columns, e.g. 8.', 'alpha': 'Factors.', 'other': 'Factors.'}


def test_the_reference_page_is_current(everything):
    page = ROOT / bindings.PAGE
    assert page.read_text() == reference.as_markdown(everything), 'Regenerate it: palm-jax bindings --markdown'


def test_the_page_is_written(capsys, tmp_path):
    assert 'bindings.md' in listed(capsys, f'--markdown={tmp_path / "new" / "bindings.md"}', 'lora')
    text = (tmp_path / 'new' / 'bindings.md').read_text()
    assert '| `LORA_RANK` | a whole number | at least 1 | `8` in peft/lora.gin | Rank R of A·B. |' in text
    assert '| `rank` | a whole number | at least 1 | `8` | `LORA_RANK` | Rank R of A·B. |' in text


def test_a_macro_of_several_meanings_shows_each_with_its_reader(capsys):
    text = listed(capsys, 'SEED')
    assert '    loop.train.seed: Seed for initialization and dropout.\n' in text
    assert '    labelled_text.LabelledText.seed: Seed for shuffling.\n' in text
    assert 'LORA_RANK: ' not in listed(capsys, 'LORA_RANK')


def test_types_and_defaults_are_in_words(everything):
    for binding in everything:
        raw = ('Callable', 'Sequence', 'Mapping', 'palm_jax.', 'collections', 'typing', '<fun', '<fac')
        assert not any(word in f'{binding.type} {binding.default}' for word in raw), binding
        assert binding.default != 'a new one' and not binding.description.endswith((', .', '`, .')), binding
