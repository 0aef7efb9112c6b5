"""A run directory is whole: without its text and its caches, on a machine without TensorFlow, it is used like any."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from palm_jax import api
from palm_jax.data.pretraining.corpus import Corpus
from palm_jax.data.vocabulary.vocabularies import SentencePiece
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory
from tests.support.once import made_once
from tests.support.paths import ROOT
from tests.support.runs import run

FITTED = (
    '--gin.VOCABULARY=sentencepiece', '--gin.VOCABULARY_SIZE=320', '--gin.EXTRA_IDS=16', '--gin.NUM_LAYERS=1',
    '--gin.EVAL_PERIOD=2', '--gin.TRAIN_STEPS=2',
)  # fmt: skip
ALONE = """
import sys
sys.modules.update(dict.fromkeys(('tensorflow', 'seqio', 'tensorflow_text', 'tensorflow_datasets')))  # no module
from palm_jax import api
from palm_jax.cli.main import main
from palm_jax.inference.generate import Sampler

def run(*arguments, code=0):
    assert main(list(arguments)) == code, arguments
"""


def write_text(path, count=1500):
    path.write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(count)))
    return path


@pytest.fixture(scope='module')
def moved(tmp_path_factory):
    """A folder with a run whose text and whose place of training are gone; tests copy it."""

    def make(folder):
        text = write_text(folder / 'text.txt')
        result = run(text, folder / 'first', *FITTED)
        assert result.returncode == 0, result.stderr[-3000:]
        text.unlink()
        (folder / 'first').rename(folder / 'run')

    return made_once(tmp_path_factory, 'moved', make)


def program(folder, code):
    """Runs code in another process with an empty cache, without TensorFlow."""
    cache = folder / 'cache'
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
    env = os.environ | {'PALM_JAX_CACHE': str(cache), 'PYTHONPATH': path}
    result = subprocess.run(
        [sys.executable, '-c', ALONE + code], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert not (cache / 'vocabularies').exists() and 'training a vocabulary' not in result.stderr
    return result.stdout


def test_it_loads_writes_is_served_and_is_saved(moved, tmp_path):
    shutil.copytree(moved / 'run', tmp_path / 'run')
    program(
        tmp_path,
        """
model = api.load('run')
assert model.data.vocabulary.text.path.startswith('run')
(text,) = model.generate(['the square of 7'], Sampler(max_tokens=8, temperature=0.0))
model.save('saved')

from palm_jax.inference.engine import Engine
from palm_jax.serving import models
engine = Engine(2)
models.fill(engine, models.load(['run'], models.Loader()))
saved = api.load('saved')
assert saved.data.vocabulary.fingerprint == model.data.vocabulary.fingerprint
assert saved.generate(['the square of 7'], Sampler(max_tokens=8, temperature=0.0)) == [text]
""",
    )


@pytest.mark.slow
def test_every_program_uses_it(moved, tmp_path):
    shutil.copytree(moved / 'run', tmp_path / 'run')
    (tmp_path / 'table.csv').write_text('text,label\n' + ''.join(f'number {i},{"ab"[i % 2]}\n' for i in range(60)))
    (tmp_path / 'in.jsonl').write_text('{"text": "the square of 7"}\n')
    write_text(tmp_path / 'held_out.txt', 40)
    program(
        tmp_path,
        """
import json
from pathlib import Path

run('infer', '--gin_file=run/config.gin', '--input=in.jsonl', '--output=out.jsonl', '--gin.MAX_NEW_TOKENS=4')
assert 'predicted' in json.loads(Path('out.jsonl').read_text())
run('eval', '--gin_file=run/config.gin', '--gin.TRAIN_FILES=held_out.txt', '--output=eval.json')
run('export', '--format=hf', '--gin_file=run/config.gin', 'exported')
tuned = api.finetune('table.csv', 'run', 'tuned', TRAIN_STEPS=1, TASK_FEATURE_LENGTHS={'inputs': 32})
assert set(tuned.predict(['number 3'])[0]) == {'a', 'b'}
assert Path('tuned/vocabulary.model').read_bytes() == Path('run/vocabulary.model').read_bytes()
""",
    )


def corpus(text, name='sentencepiece'):
    """The text and vocabulary of a run with the flags `FITTED`."""
    return Corpus('unused', name, 320, 16, train_files=str(text))


def test_a_grown_text_keeps_the_vocabulary_of_the_run_and_a_failed_attempt_has_none(moved, tmp_path):
    kept, grown = (moved / 'run' / 'vocabulary.model').read_bytes(), corpus(write_text(tmp_path / 'grown.txt', 1800))
    grown.prepare(RunDirectory(moved / 'run'))
    assert grown.vocabulary_path.read_bytes() == kept
    attempt = RunDirectory(tmp_path / 'attempt')  # it ended before a checkpoint was saved
    attempt.path.mkdir()
    attempt.sentencepiece_vocabulary.write_bytes(b'of another size')
    again = corpus(write_text(tmp_path / 'text.txt'))
    again.prepare(attempt)
    again.vocabulary.save(attempt.path)
    assert attempt.sentencepiece_vocabulary.read_bytes() == kept


@pytest.mark.slow
def test_a_run_that_continues_on_a_grown_text_keeps_its_vocabulary(moved, tmp_path):
    shutil.copytree(moved / 'run', tmp_path / 'run')
    text, kept = write_text(tmp_path / 'text.txt', 1800), (moved / 'run' / 'vocabulary.model').read_bytes()
    result = run(text, tmp_path / 'run', *FITTED[:-1], '--gin.TRAIN_STEPS=3', '--accept_changes')
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / 'run' / 'vocabulary.model').read_bytes() == kept
    assert RunDirectory(tmp_path / 'run').steps()[-1] == 3


@pytest.mark.slow
def test_a_vocabulary_of_an_attempt_that_saved_nothing_is_replaced(moved, tmp_path):
    text, stale = write_text(tmp_path / 'text.txt'), tmp_path / 'run' / 'vocabulary.model'
    stale.parent.mkdir()
    stale.write_bytes(b'of another size')
    result = run(text, tmp_path / 'run', *FITTED)
    assert result.returncode == 0, result.stderr[-3000:]
    assert stale.read_bytes() == (moved / 'run' / 'vocabulary.model').read_bytes()


def test_a_vocabulary_that_is_gone_is_read_from_the_checkpoint_or_a_copy(moved, tmp_path):
    shutil.copytree(moved / 'run', tmp_path / 'run')
    copy, file = tmp_path / 'copy.model', tmp_path / 'run' / 'vocabulary.model'
    shutil.copy(file, copy)
    for cut in (lambda: file.unlink(), lambda: file.write_bytes(copy.read_bytes()[:1000])):
        cut()
        here = corpus(tmp_path / 'no text')
        here.prepare(RunDirectory(tmp_path / 'run'))
        assert here.vocabulary.text.fingerprint == SentencePiece(str(copy)).fingerprint
    assert api.load(tmp_path / 'run').data.vocabulary.text.fingerprint == SentencePiece(str(copy)).fingerprint
    assert api.load(tmp_path / 'run', VOCABULARY=str(copy)).data.vocabulary.text.path == str(copy)


def test_a_vocabulary_that_is_not_there_is_the_runs_only_if_the_run_was_trained_with_it(moved, tmp_path):
    """A mistyped name is not replaced in silence; the path that the run's config.gin names may be gone."""
    shutil.copytree(moved / 'run', tmp_path / 'run')
    run_here, text = RunDirectory(tmp_path / 'run'), write_text(tmp_path / 'text.txt')
    gone = str(tmp_path / ('a folder with a long name ' * 5) / 'gone.model')
    with pytest.raises(UserError, match=re.escape(f'No vocabulary at {gone}')):
        corpus(text, gone).prepare(run_here)
    config = run_here.config.read_text()
    halves = f"'{gone[:60]}' \\\n    '{gone[60:]}'"  # as gin breaks a long string
    for written in (repr(gone), halves):
        run_here.config.write_text(config.replace("VOCABULARY = 'sentencepiece'", f'VOCABULARY = {written}'))
        named = corpus(text, gone)
        named.prepare(run_here)
        assert named.vocabulary_path == run_here.sentencepiece_vocabulary
