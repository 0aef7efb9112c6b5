"""What a round refuses before it begins, and before it is continued."""

import json
import os
from types import SimpleNamespace

import pytest

from palm_jax.cli import retune as program
from palm_jax.errors import UserError
from palm_jax.monitoring.registry import Registry
from palm_jax.retuning.retune import Round, Settings, refuse_interrupted
from palm_jax.run_directory import RunDirectory
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    'binding, message',
    [
        (('TRAIN_STPES', '4'), 'Did you mean TRAIN_STEPS'),
        (('TRAIN_FILES', "'mine.csv'"), r'--gin\.TRAIN_FILES has no effect: a round sets TRAIN_FILES itself'),
    ],
)
def test_a_binding_of_a_challenger_is_checked_before_the_round(monkeypatch, binding, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=message):
        program._check_bindings('gin/pretrain_tiny.gin', [('VOCABULARY', 'bytes'), binding])


def test_a_round_is_continued_with_its_own_settings_alone(tmp_path):
    current = Round(Registry(tmp_path), 1)
    current.path.mkdir()
    settings = {'replay': 3.0, 'held_out': 4, 'min_examples': 20, 'seed': 0}
    current.description.write_text(json.dumps({'settings': settings}))
    current.check(Settings(), 'requests.db')
    with pytest.raises(UserError, match=r'Round 1 was begun with --replay=3\.0\. .*rm -r .*round_0001'):
        current.check(Settings(replay=1.0), 'requests.db')


def test_a_round_is_continued_with_its_own_rows_alone(tmp_path):
    current = Round(Registry(tmp_path), 1)
    current.path.mkdir()
    settings = {'replay': 3.0, 'held_out': 4, 'min_examples': 20, 'seed': 0}
    current.description.write_text(json.dumps({'settings': settings, 'source': 'a.csv'}))
    current.check(Settings(), 'a.csv')
    current.check(Settings(), os.path.abspath('a.csv'))  # earlier versions kept what was typed
    with pytest.raises(UserError, match=r'begun with the rows of a\.csv.*those of b\.csv: rm -r .*round_0001'):
        current.check(Settings(), 'b.csv')


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--status', '--requests=r.db'], '--requests has no effect with --status'),
        (['--rollback', '--replay=1'], '--replay has no effect with --rollback'),
        (['--rollback', '--champion=runs/tiny'], '--champion has no effect with --rollback'),
        (['--status', '--gin.TRAIN_STEPS=3'], r'--gin\.TRAIN_STEPS has no effect with --status'),
    ],
)
def test_what_belongs_to_a_round_is_refused_where_none_is_run(tmp_path, flags, message):
    registry = Registry(tmp_path / 'registry')
    registry.path.mkdir()
    before = sorted(registry.path.iterdir())
    with pytest.raises(UserError, match=message):
        program.main([f'--registry={registry.path}', *flags])
    assert sorted(registry.path.iterdir()) == before


def test_a_registry_that_does_not_exist_is_not_made_by_a_rollback(tmp_path):
    folder = tmp_path / 'none'
    with pytest.raises(UserError, match=r'none does not exist \(from '):
        program.main([f'--registry={folder}', '--rollback'])
    assert not folder.exists()


def test_a_refused_round_leaves_no_folder(tmp_path):
    folder = tmp_path / 'new' / 'registry'
    with pytest.raises(UserError, match='is not a checkpoint'):
        program.main([f'--registry={folder}', f'--champion={tmp_path / "none"}', '--input=rows.csv'])
    assert not list(tmp_path.iterdir())
    folder.mkdir(parents=True)  # one that was there stays
    with pytest.raises(UserError, match='is not a checkpoint'):
        program.main([f'--registry={folder}', f'--champion={tmp_path / "none"}', '--input=rows.csv'])
    assert folder.is_dir() and not list(folder.iterdir())


def test_a_run_that_was_interrupted_is_no_champion(tmp_path):
    run = RunDirectory(tmp_path / 'my run')
    (run.checkpoint(10) / 'state').mkdir(parents=True)
    (run.checkpoint(10) / 'metadata').mkdir()
    (run.checkpoint(10) / 'metadata' / 'metadata').write_text('{"vocabulary": "bytes"}')
    run.metrics.touch()
    model = SimpleNamespace(config=run.config, run={'total_steps': 30})
    with pytest.raises(
        UserError, match=r"interrupted after step 10 of 30(.|\n)*train '--gin_file=.*--gin.TRAIN_STEPS=10"
    ):
        refuse_interrupted(model)
    run.summary.write_text('{"step": 10}')
    refuse_interrupted(model)
