"""Names of earlier versions: what users type is refused with the new name, what runs have kept is translated."""

import importlib
import inspect

import pytest

from palm_jax.configuration import record, renames
from palm_jax.configuration.load import load
from palm_jax.errors import UserError
from tests.support.paths import ROOT

TINY = 'gin/pretrain_tiny.gin'


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


FLAGS = {
    'macro': ('SAMPLE_TOKENS', '5', 'SAMPLE_TOKENS is now called MAX_NEW_TOKENS'),
    'macro as a value': ('generate.Sampler.seed', '%SAMPLES', 'SAMPLES is now called NUM_DECODES'),
    'parameter': ('lora.LoRA.decomposed', 'True', 'lora.LoRA.decomposed is now called lora.LoRA.use_dora'),
    'parameter of a module that moved': ('batches.LanguageModelData.seed', '1', 'dataset.LanguageModelData.seed'),
    'both renamed': ('best.best_by.measure', "'loss'", 'best.best_metric.metric'),
    'with a scope': ('a/spikes.SpikeRule.back', '1', 'a/spikes.SpikeRule.rewind_steps'),
    'reference': ('LAYOUT', '@partitioning.Layout()', 'partitioning.Layout is now called partitioning.MeshLayout'),
}


@pytest.mark.parametrize('name, value, message', FLAGS.values(), ids=FLAGS)
def test_an_old_name_in_a_flag_is_refused_with_the_new_one(name, value, message):
    with pytest.raises(UserError, match=rf'command line, --gin\.{name}=.*: .*{message}'):
        load('loop.train', [TINY], [(name, value)])


FILES = {
    'macro': ('SAMPLE_STOP = []', 'SAMPLE_STOP is now called STOP_SEQUENCES'),
    'parameter': ('loop.train.best = @best.best_by()', 'best.best_by is now called best.best_metric'),
    'block': ('spikes.SpikeRule:\n  back = 3', 'spikes.SpikeRule.rewind_steps'),
    'import': (
        'from palm_jax.data import corpus',
        'palm_jax.data.corpus is now called palm_jax.data.pretraining.corpus',
    ),
}


@pytest.mark.parametrize('lines, message', FILES.values(), ids=FILES)
def test_an_old_name_in_a_file_is_refused_with_its_line(lines, message, tmp_path):
    path = tmp_path / 'mine.gin'
    path.write_text(f"from __gin__ import dynamic_registration\ninclude '{TINY}'\n{lines}\n")
    with pytest.raises(UserError, match=rf'mine\.gin, line [34]: .*{message}'):
        load('loop.train', [str(path)], [])


def test_a_macro_of_the_users_own_may_have_an_old_name(tmp_path):
    path = tmp_path / 'mine.gin'
    path.write_text(f"include '{TINY}'\nSAMPLES = 7\nSEED = %SAMPLES\n")
    assert load('loop.train', [str(path)], []).build('loop.train')['seed'] == 7


@pytest.mark.parametrize('new', sorted(set(renames.MACROS.values())))
def test_new_macros_exist(new):
    assert any(f'\n{new} = ' in path.read_text() for path in (ROOT / 'gin').rglob('*.gin'))


def test_new_modules_configurables_and_parameters_exist():
    modules = {name.rpartition('.')[2]: name for name in renames.MODULES.values()}
    modules |= {'best': 'palm_jax.training.best', 'finetuning': 'palm_jax.training.finetuning'}
    modules |= {'beam': 'palm_jax.inference.beam', 'generate': 'palm_jax.inference.generate'}
    modules |= {'labelled_example': 'palm_jax.data.supervised.labelled_example'}
    modules |= {'spikes': 'palm_jax.training.spikes', 'partitioning': 'palm_jax.partitioning'}
    modules |= {name: f'palm_jax.peft.{name}' for name in ('adalora', 'adapter', 'lora', 'prefix', 'prompt')}
    for new in renames.CONFIGURABLES.values():
        module, _, name = new.partition('.')
        assert callable(getattr(importlib.import_module(modules[module]), name))
    for old, new in renames.PARAMETERS.items():
        module, name, parameter = old.split('.')
        parameters = inspect.signature(getattr(importlib.import_module(modules[module]), name)).parameters
        assert new in parameters and parameter not in parameters


OLD_TEXT = """from __gin__ import dynamic_registration
from palm_jax.data import batches
from palm_jax.reports import written as reports

# Macros:
# ======
METHODS = [@prompt.Prompt()]
PROMPTS = ['%SAMPLES', 'batches.x = SAMPLES']
SAMPLES = 3

# Parameters for batches.LanguageModelData:
# ======
train/batches.LanguageModelData.seed = %SAMPLES
lora.LoRA.rank_stabilized = \\
    {'a': @written.WritingReporter(), "b": %MEASURES}
"""
NEW_TEXT = """from __gin__ import dynamic_registration
from palm_jax.data.pretraining import dataset
from palm_jax.reports import generation as reports

# Macros:
# ======
METHODS = [@prompt.SoftPrompt()]
PROMPTS = ['%SAMPLES', 'batches.x = SAMPLES']
NUM_DECODES = 3

# Parameters for dataset.LanguageModelData:
# ======
train/dataset.LanguageModelData.seed = %NUM_DECODES
lora.LoRA.use_rslora = \\
    {'a': @generation.GenerationReporter(), "b": %METRICS}
"""


def test_a_runs_configuration_is_translated_outside_quotes():
    assert renames.translate(OLD_TEXT) == NEW_TEXT
    assert renames.translate(NEW_TEXT) == NEW_TEXT


def test_the_configuration_of_an_earlier_run_is_loaded_and_differs_from_todays_in_nothing(tmp_path):
    today = load('loop.train', [TINY], [('NUM_DECODES', '2')])
    today.build('loop.train')
    old = today.text.replace('NUM_DECODES', 'SAMPLES').replace('num_decodes', 'samples').replace('MeshL', 'L')
    old = old.replace('data.pretraining import dataset', 'data import batches').replace('dataset.', 'batches.')
    assert 'SAMPLES = 2' in old and '@batches.LanguageModelData()' in old
    (tmp_path / 'checkpoints').mkdir()
    (tmp_path / 'config.gin').write_text(old)
    again = load('loop.train', [str(tmp_path / 'config.gin')], [])
    assert again.build('loop.train')['reporter'].sampler.num_decodes == 2
    assert record.difference(old, again.text) == '' == record.difference(old, today.text)
    (tmp_path / 'mine.gin').write_text(old)
    with pytest.raises(UserError, match=r'mine\.gin, line .* is now called'):
        load('loop.train', [str(tmp_path / 'mine.gin')], [])


@pytest.mark.parametrize(
    'kind, head', [('class', 'classification'), ('labels', 'multilabel'), ('number', 'regression')]
)
def test_a_kind_of_label_as_a_string_names_the_gin_file_that_binds_it(kind, head):
    with pytest.raises(UserError, match=f'--gin.LABEL_KIND={kind}: .*write --gin_file=gin/heads/{head}.gin instead'):
        load('loop.train', ['gin/finetune_lora.gin'], [('LABEL_KIND', kind)])
