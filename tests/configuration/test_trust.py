"""Loading somebody's run executes no code but that of palm_jax, and what the user names."""

import re
import shutil
import sys

import pytest

from palm_jax import api
from palm_jax.cli import main as programs
from palm_jax.configuration.load import load
from palm_jax.configuration.trust import Trust
from palm_jax.errors import UserError
from palm_jax.monitoring.registry import Registry
from tests.support import old_runs
from tests.support.paths import ROOT

# One for each test that imports it: gin forgets no function that it has registered.
MODULES = ('payload', 'trusted', 'named', 'trained')
REGISTRATION = 'from __gin__ import dynamic_registration\n'


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The MODEL_DIR of a run in the working directory, with modules beside it that say when they are executed."""
    shutil.copytree(old_runs.RUNS / 'base', tmp_path / 'run')
    for name in MODULES:
        (tmp_path / f'{name}.py').write_text(
            "from pathlib import Path\nimport os\nPath('executed').touch()\n"
            "def head(value=None):\n    Path('called').touch()\n    return value\n"
        )
    (tmp_path / 'nested.gin').write_text(f'{REGISTRATION}import payload\nSEED = @payload.head()\n')
    (tmp_path / 'outer.gin').write_text("include 'nested.gin'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    yield tmp_path / 'run'
    assert not (tmp_path / 'called').exists()


def changed(run, imports, bindings):
    config = run / 'config.gin'
    text = config.read_text().replace(REGISTRATION, REGISTRATION + imports, 1)
    config.write_text(f'{text}\n{bindings}')
    return [str(config)]


TOUCH = "popen.cmd = 'touch called'\n"
ATTACKS = {
    'an import alone': ('import payload\n', '', 'import payload'),
    'a call': ('import os\n', f'SEED = @os.popen()\nos.{TOUCH}', 'import os'),
    'an alias': ('import os as loop_\n', f'SEED = @loop_.popen()\nloop_.{TOUCH}', 'import os as loop_'),
    'an alias of a known name': ('import os as loop\n', 'SEED = @loop.getcwd()\n', 'import os as loop'),
    'from a package': ('from os import path\n', 'SEED = @path.abspath()\n', 'from os import path'),
    'through a module of palm_jax': ('', f'SEED = @corpus.os.popen()\ncorpus.os.{TOUCH}', '@corpus.os.popen'),
    'a whole path': ('import palm_jax.models.palm\n', 'SEED = @palm_jax.cli.main.main()\n', '@palm_jax.cli.main.main'),
    'a program of palm_jax': (
        'from palm_jax.cli import main\n',
        'SEED = @main.main()\n',
        'from palm_jax.cli import main',
    ),
    'a function that gin files do not name': ('', 'SEED = @writers.read_jsonl()\n', '@writers.read_jsonl'),
    'a run within the run': ('', 'SEED = @loop.train()\n', '@loop.train'),
    'gin itself': ('from gin import config\n', 'SEED = @config.parse_config()\n', 'from gin import config'),
    'a scope': ('', f'SEED = @a/b/corpus.os.popen()\na/b/corpus.os.{TOUCH}', '@corpus.os.popen'),
    'a binding alone': ('', f'corpus.os.{TOUCH}', 'corpus.os.popen'),
    'a block': ('', 'corpus.os.popen:\n  cmd = "touch called"\n', 'corpus.os.popen'),
    'within a list': ('', 'SEED = [1, (2, @corpus.os.getcwd())]\n', '@corpus.os.getcwd'),
    'a key of a dict': ('', "SEED = {@corpus.os.getcwd(): 'value'}\n", '@corpus.os.getcwd'),
    'a reference that is not called': ('', 'SEED = @corpus.os.getcwd\n', '@corpus.os.getcwd'),
    'another macro': ('', 'MORE = @corpus.os.getcwd()\nSEED = %MORE\n', '@corpus.os.getcwd'),
    'a singleton': (
        '',
        'SEED = @one/gin.singleton()\none/gin.singleton.constructor = @corpus.os.getcwd\n',
        '@corpus.os.getcwd',
    ),
    'an included file': ('', "include 'nested.gin'\n", 'nested.gin, line 2: import payload'),
    'a file that an included file includes': ('', "include 'outer.gin'\n", 'nested.gin, line 2: import payload'),
}


@pytest.mark.parametrize('attack', ATTACKS)
def test_code_outside_palm_jax_is_refused_and_said(run, attack):
    imports, bindings, said = ATTACKS[attack]
    files = changed(run, imports, bindings)
    with pytest.raises(UserError) as refused:
        load('loop.train', files, [], trust=Trust())
    assert ', line ' in str(refused.value) and said in str(refused.value)
    advised = re.search(r'--trust_modules=(\S+)', str(refused.value))
    assert bool(advised) == ('import' in said or said in ('@writers.read_jsonl', '@loop.train'))
    assert not (run.parent / 'executed').exists() and not (run.parent / 'called').exists()


def test_without_gins_registration_nothing_else_is_reached(run):
    (run / 'config.gin').write_text("import payload\nloop.train.model_dir = 'x'\n")
    with pytest.raises(UserError, match=r'config\.gin, line 1: import payload'):
        load('loop.train', [str(run / 'config.gin')], [], trust=Trust())
    (run / 'config.gin').write_text('loop.train.model_dir = @payload.head()\n')
    with pytest.raises(UserError, match=r'@payload\.head'):
        load('loop.train', [str(run / 'config.gin')], [], trust=Trust())


def test_a_file_that_a_run_includes_is_not_shown(run):
    (run.parent / 'passwords').write_text('root:x:0:secret\n')
    (run.parent / 'outer.gin').write_text("include 'passwords'\n")
    files = changed(run, '', "include 'outer.gin'\n")
    with pytest.raises(UserError, match=r'passwords, line 1: gin cannot read this line\.') as refused:
        load('loop.train', files, [], trust=Trust())
    assert 'secret' not in str(refused.value) and 'root' not in str(refused.value)
    mine = run.parent / 'mine.gin'  # the user's own files are shown
    mine.write_text("include 'passwords'\n")
    with pytest.raises(UserError, match='root:x:0:secret'):
        load('loop.train', [str(mine)], [], trust=Trust())


THIS = '--gin_file=run/config.gin'
USES = [
    f'infer {THIS} --input=rows.csv --output=out.jsonl',
    f'eval {THIS}',
    'serve --model=run --port=0',
    'serve --model=mine=registry --port=0',
    f'export {THIS} exported',
    f'fisher {THIS} --output=fisher.npz',
    f'explain-prediction {THIS} --text=a',
    f'probe {THIS}',
    f'drift {THIS} --requests=requests.db',
    f'fairness {THIS} --input=rows.csv --groups=group',
    f'toxicity {THIS} --rules=words.json --input=rows.csv',
    'filter --rules=models.json --input=rows.csv --output=clean.csv',
    'augment --input=rows.csv --output=made.jsonl --through_run=run --through_run=run',
    f'memorization {THIS}',
    f'contamination {THIS}',
    f'rank-examples {THIS}',
    f'select {THIS} --input=rows.csv --output=next.csv',
    f'teach {THIS} --output=teacher.npz',
    'fuse run run fused',
    'retune --registry=another --champion=run --input=rows.csv',
    f'inspect python_stdlib {THIS}',
    f'inspect step {THIS} --step=1',
    f'cache python_stdlib {THIS}',
    f'bindings {THIS}',
]


@pytest.mark.parametrize('command', USES)
def test_every_program_that_uses_a_run_refuses(run, command):
    changed(run, 'import payload\n', 'SEED = @payload.head()\n')
    (run.parent / 'rows.csv').write_text('text,label,group\n' + 'a,x,1\nb,y,2\n' * 20)
    (run.parent / 'requests.db').touch()
    (run.parent / 'words.json').write_text('[{"name": "r", "words": ["a"]}]')
    (run.parent / 'models.json').write_text('[{"name": "r", "model": "run", "label": "x"}]')
    Registry(run.parent / 'registry').adopt('run')
    with pytest.raises(UserError, match=r'(?s)import payload.*--trust_modules=payload') as refused:
        programs.main(command.split())
    assert 'config.gin, line' in str(refused.value)
    assert not (run.parent / 'executed').exists()


def test_a_program_that_is_new_is_in_the_list():
    used = {command.split()[0] for command in USES}
    assert used == {n for n, (file, _) in programs.PROGRAMS.items() if 'add_trust' in source_of(file)} | {'inspect'}


def source_of(program):
    return (ROOT / 'palm_jax' / 'cli' / f'{program}.py').read_text()


def test_loading_in_python_refuses(run):
    changed(run, 'import payload\n', 'SEED = @payload.head()\n')
    with pytest.raises(UserError, match='import payload'):
        api.load(run)
    assert not (run.parent / 'executed').exists()


def test_what_the_user_names_is_imported_with_its_own_functions_alone(run):
    files = changed(run, 'import trusted\n', 'SEED = @trusted.head\n')
    load('loop.train', files, [], trust=Trust(('trusted',)))
    assert (run.parent / 'executed').exists()
    changed(run, '', 'SEED = @trusted.os.getcwd()\n')
    with pytest.raises(UserError, match=r'@trusted\.os\.getcwd'):
        load('loop.train', files, [], trust=Trust(('trusted',)))


def test_a_gin_file_that_the_user_names_trusts_what_it_imports(run):
    files = changed(run, 'import named\n', 'SEED = @named.head\n')
    (run.parent / 'mine.gin').write_text(f'{REGISTRATION}import named\nSEED = @named.head\n')
    load('loop.train', [*files, 'mine.gin'], [], trust=Trust())
    assert (run.parent / 'executed').exists()


def test_training_runs_what_its_files_name(run):
    load('loop.train', changed(run, 'import trained\n', 'SEED = @trained.head\n'), [])
    assert (run.parent / 'executed').exists()


@pytest.mark.parametrize('name', ['base', 'classifier', 'multilabel', 'regressor', 'saved', 'tagger', 'writer'])
def test_runs_of_earlier_versions_name_nothing_else(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    load('loop.train', [str(old_runs.RUNS / name / 'config.gin')], [], trust=Trust())
