"""Whatever a binding is set to, it is taken or refused with a message; nothing ends in a traceback."""

import contextlib
import io

import pytest

from palm_jax import train
from palm_jax.configuration import reference
from palm_jax.configuration.load import load
from palm_jax.errors import UserError

RECIPES = {
    'tiny': [],
    'ul2, muon, stable decay': [
        'gin/objectives/ul2.gin',
        'gin/optim/muon.gin',
        'gin/schedules/warmup_stable_decay.gin',
    ],
    'masked, adamw, cosine': ['gin/objectives/masked_lm.gin', 'gin/optim/adamw.gin', 'gin/schedules/cosine.gin'],
    'spikes, cyclical': ['gin/runs/skip_spikes.gin', 'gin/schedules/cyclical.gin'],
}
WRONG = ('0', '-1', '0.5', 'None', '[]', '{}', "'x y'", '1000000000000')


def explain(files, *flags):
    with contextlib.redirect_stdout(io.StringIO()) as told:
        code = train.main([*(f'--gin_file={file}' for file in files), '--explain', *flags])
    assert code == (2 if 'the run would fail' in told.getvalue() else 0)
    return told.getvalue()


def try_all(recipe, values, tmp_path):
    text = tmp_path / 'text.txt'
    text.write_text('\n'.join(f'line {i} of a text' for i in range(400)))
    files = ['gin/pretrain_tiny.gin', *RECIPES[recipe]]
    given = {'VOCABULARY': 'bytes', 'TRAIN_FILES': f'{text}', 'MODEL_DIR': f'{tmp_path / "run"}'}
    flags = [f'--gin.{name}={value}' for name, value in given.items()]
    assert 'the run would fail' not in explain(files, *flags)
    names = load('loop.train', files, list(given.items())).effective
    assert 'LEARNING_RATE' in names and 'palm.Architecture.d_model' in names
    refused = 0
    for name in names:
        for value in values:
            try:
                explain(files, *flags, f'--gin.{name}={value}')
            except UserError:
                refused += 1
            except Exception as error:
                raise AssertionError(f'--gin.{name}={value}') from error
    assert refused > len(names) * len(values) / 2


def test_no_value_ends_in_a_traceback(tmp_path, monkeypatch):
    monkeypatch.setenv('PALM_JAX_CACHE', str(tmp_path / 'cache'))
    try_all('tiny', ('-1', 'None'), tmp_path)


# Those of a column count from the end when they are negative, the sampler checks its biases, and the others are set by
# palm_jax itself.
ANY_NUMBER = {
    *('TAG_COLUMN', 'tagged_text.TaggedTable.tag_column'),
    *('LOGIT_BIAS', 'generate.Sampler.logit_bias', 'group_dro.GroupDRO.sizes', 'unlikelihood.Unlikelihood.phrases'),
    *('palm.PaLM.frozen_layers', 'prompts.initial_ids.length'),
}


def test_every_number_has_bounds():
    bindings = reference.read(reference.package_files())
    without = {b.name for b in bindings if 'number' in b.type and not b.allowed}
    assert without == ANY_NUMBER


@pytest.mark.parametrize('value', ['0', '-1', '1e999', '-1e999', '1e999-1e999'])
@pytest.mark.parametrize('name', ['BATCH_SIZE', 'MICROBATCHES', 'CHECKPOINT_PERIOD', 'VOCABULARY_SIZE', 'MESH_MODEL'])
def test_what_counts_is_at_least_one(name, value):
    with pytest.raises(UserError, match=rf'--gin\.{name}={value}: '):
        load('loop.train', ['gin/pretrain_tiny.gin'], [('VOCABULARY', 'bytes'), (name, value)])


@pytest.mark.slow
@pytest.mark.parametrize('recipe', RECIPES)
def test_no_value_of_any_recipe_does(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv('PALM_JAX_CACHE', str(tmp_path / 'cache'))
    try_all(recipe, WRONG, tmp_path)


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('LEARNING_RATE', '-1', r'LEARNING_RATE=-1: LEARNING_RATE is -1; it must be at least 0 \(schedules\.linear\.'),
        ('LEARNING_RATE', '1e999', 'LEARNING_RATE is inf; it must be a finite number, at least 0'),
        ('WARMUP_STEPS', '-0.5', 'WARMUP_STEPS is -0.5; it must be at least 0'),
        ('optimizers.adafactor.beta1', '1.5', 'beta1 is 1.5; it must be at least 0 and below 1'),
        ('optimizers.adafactor.clip_norm', '0', 'clip_norm is 0; it must be above 0, or None'),
        ('UNROLL_LAYERS', '-1', 'UNROLL_LAYERS is -1; it must be at least 0, or .auto.'),
        ('HEAD_DIM', '1000000000000', 'must be at least 1 and below 2147483648'),
        ('OPTIMIZER', 'None', 'must be Optimizer, but it is None'),
        ('MESH_MODEL', '0', 'MESH_MODEL is 0; it must be at least 1'),
        ('MESH_MODEL', '3', 'does not fit'),
        ('MESH_DATA', '0', 'MESH_DATA is 0; it must be at least 1, or -1'),
        ('SEED', '-1', 'SEED is -1; it must be at least 0'),
        ('MICROBATCHES', '0', 'MICROBATCHES is 0; it must be at least 1'),
        ('Z_LOSS', '-1', 'Z_LOSS is -1; it must be at least 0 .losses.LanguageModelLoss.z_loss'),
    ],
)
def test_it_says_what_would_do(name, value, message, tmp_path):
    (tmp_path / 'text.txt').write_text('a line of text\n' * 400)
    flags = ('--gin.VOCABULARY=bytes', f'--gin.TRAIN_FILES={tmp_path / "text.txt"}', f'--gin.{name}={value}')
    with pytest.raises(UserError, match=message):
        explain(['gin/pretrain_tiny.gin'], *flags)


@pytest.mark.parametrize(
    ('flag', 'message'),
    [
        ('MICROBATCHES=3', 'BATCH_SIZE = 8 does not divide into MICROBATCHES = 3'),
    ],
)
def test_explain_tells_what_the_run_would_be_refused_for(flag, message, tmp_path):
    (tmp_path / 'text.txt').write_text('a line of text\n' * 400)
    flags = ('--gin.VOCABULARY=bytes', f'--gin.TRAIN_FILES={tmp_path / "text.txt"}', f'--gin.{flag}')
    assert f'the run would fail\n{message}' in explain(['gin/pretrain_tiny.gin'], *flags)


PAIRS = ("TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 8}", 'INPUT_TEMPLATE={text}', 'TARGET_TEMPLATE={label}')
REFUSED = [  # the head, the method, further flags, the message
    ('embedding', None, ('LORA_DROPOUT_RATE=0.0',), 'compares two dropout masks, and this run has none'),
    ('embedding', 'r_drop', (), 'SimCSELoss has no `predict`.*leave the method out'),
    ('text_to_text', 'distil', (*PAIRS, 'TEACHER_FILES=x'), 'TeacherPredictions is for a model that predicts labels'),
    ('classification', 'distil_tokens', ('TEACHER_FILE=x',), 'TokenTeacher is for a model that generates text'),
    ('regression', 'supcon', ('LABEL_COLUMN=number',), 'SupCon'),
    ('text_to_text', 'semantic_loss', (*PAIRS, 'RULE_FILES=x'), 'Rules are about labels, and this run predicts none'),
]


@pytest.mark.parametrize(('head', 'method', 'flags', 'message'), REFUSED, ids=lambda value: str(value)[:20])
def test_explain_refuses_methods_that_a_kind_of_task_cannot_have(
    head, method, flags, message, tmp_path, base_and_table
):
    rows = ''.join(f'text {i},{"ab"[i % 2]},{i}\n' for i in range(40))
    (tmp_path / 'table.csv').write_text(f'text,label,number\n{rows}')
    files = ['gin/finetune_lora.gin', f'gin/heads/{head}.gin', *([f'gin/methods/{method}.gin'] if method else [])]
    given = [f'TRAIN_FILES={tmp_path}/table.csv', f'INITIAL_CHECKPOINT_PATH={base_and_table[1][1]}', *flags]
    with pytest.raises(UserError, match=message):
        explain(files, *(f'--gin.{flag}' for flag in given))
