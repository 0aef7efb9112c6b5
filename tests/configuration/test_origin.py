"""Files that a run names relative to where it was started, for a program that is started elsewhere."""

from palm_jax.configuration.origin import paths_from

CONFIG = """
INITIAL_CHECKPOINT_PATH = 'runs/base'
MODEL_DIR = 'runs/mine'
SAMPLING = 'over'
TRAIN_FILES = 'data/*.csv'
UNLABELLED_FILES = '{elsewhere}'
VALIDATION_FILES = 'all.json#*val'
"""


def test_tables_and_base_are_found_where_the_run_was_started(tmp_path, monkeypatch):
    start, other = tmp_path / 'start', tmp_path / 'other'
    run = start / 'runs' / 'mine'
    for folder in (run, start / 'runs' / 'base', start / 'data', start / 'over', other):
        folder.mkdir(parents=True)
    for file in (start / 'data' / 'a.csv', start / 'all.json', other / 'b.csv'):
        file.touch()
    config = run / 'config.gin'
    config.write_text(CONFIG.replace('{elsewhere}', str(other / 'b.csv')))
    monkeypatch.chdir(other)
    found = {
        'INITIAL_CHECKPOINT_PATH': repr(str(start / 'runs' / 'base')),
        'TRAIN_FILES': repr(str(start / 'data' / '*.csv')),
        'VALIDATION_FILES': repr(str(start / 'all.json#*val')),
    }
    assert dict(paths_from(config)) == found
    monkeypatch.chdir(tmp_path)
    assert dict(paths_from(config.relative_to(tmp_path))) == found
    (tmp_path / 'all.json').touch()  # what is here is taken
    del found['VALIDATION_FILES']
    assert dict(paths_from(config)) == found
    monkeypatch.chdir(start)
    assert paths_from(config) == []


def test_a_run_that_was_moved_does_not_say_where_it_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'start' / 'runs' / 'base').mkdir(parents=True)
    run = tmp_path / 'start' / 'copy'
    run.mkdir()
    (run / 'config.gin').write_text(CONFIG)
    assert paths_from(run / 'config.gin') == []
