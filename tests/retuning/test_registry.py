"""The registry of champions: decided once, rolled back, refused where it must be."""

import json
from pathlib import Path

import pytest

from palm_jax.errors import UserError
from palm_jax.monitoring.registry import Decision, Registry


def test_champions_are_promoted_and_rolled_back(tmp_path):
    registry = Registry(tmp_path)
    with pytest.raises(UserError, match='no champion yet: name the run that is deployed, --champion'):
        registry.champion()
    registry.adopt('runs/a')
    registry.adopt('runs/a')  # the same command again
    with pytest.raises(UserError, match=r'the champion of .* is runs/a; leave --champion out'):
        registry.adopt('runs/b')
    with pytest.raises(UserError, match='no former champion to roll back to'):
        registry.roll_back()
    registry.decide(Decision('rejected', 'runs/r1', 1))
    registry.decide(Decision('promoted', 'runs/r2', 2))
    registry.decide(Decision('promoted', 'runs/r2', 2))  # killed after it was written, and started again
    assert registry.champions() == ['runs/a', 'runs/r2'] and len(registry.decisions()) == 3
    registry.adopt('runs/a')  # the first command of a registry may be repeated
    assert registry.roll_back().model_dir == 'runs/a' == registry.champion()
    registry.decide(Decision('promoted', 'runs/r2', 2))  # a round that was rolled back is not promoted again
    assert registry.champion() == 'runs/a'
    assert [d.event for d in registry.decisions()] == ['adopted', 'rejected', 'promoted', 'rolled_back']


def test_the_open_round_is_the_one_that_is_not_decided(tmp_path):
    registry = Registry(tmp_path)
    assert registry.open_round() == 1
    registry.round_path(1).mkdir()
    assert registry.open_round() == 1
    registry.decide(Decision('rejected', 'x', 1))
    assert registry.open_round() == 2


@pytest.mark.parametrize('name', ['a\u2028b\x85c', 'größer: ü', 'not \udcff UTF-8', '"quoted"\n'])
def test_names_may_have_any_characters(tmp_path, name):
    registry = Registry(tmp_path / name.strip())
    registry.adopt(name)
    registry.decide(Decision('promoted', f'{name}2', 1))
    assert registry.champions() == [name, f'{name}2']
    line = json.dumps({'event': 'adopted', 'model_dir': 'a\u2028b'}, ensure_ascii=False)  # as earlier versions wrote it
    registry.file.write_text(f'{line}\n', encoding='utf-8')
    assert registry.champion() == 'a\u2028b'


def test_a_damaged_line_is_named(tmp_path):
    registry = Registry(tmp_path)
    registry.adopt('runs/a')
    registry.file.write_text(registry.file.read_text() + '{"event"')
    with pytest.raises(UserError, match='line 2 is not a decision'):
        registry.champion()


def test_a_registry_is_read_from_any_folder_and_after_it_was_moved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registry = Registry(Path('runs/mine'))
    challenger = registry.round_path(1) / 'challenger'
    challenger.mkdir(parents=True)
    registry.adopt('/runs/first')
    registry.decide(Decision('promoted', str(challenger), 1))
    assert json.loads(registry.file.read_text().splitlines()[-1])['model_dir'] == 'round_0001/challenger'
    assert registry.champion() == str(challenger) and registry.rolled_back_rounds() == []
    other = tmp_path / 'other'
    other.mkdir()
    monkeypatch.chdir(other)
    seen = Registry(tmp_path / 'runs' / 'mine')
    assert seen.champions() == ['/runs/first', str(tmp_path / challenger)]
    seen.adopt('/runs/first')  # the first command of a registry may be repeated from here, too
    (tmp_path / 'runs').rename(tmp_path / 'moved')
    moved = Registry(tmp_path / 'moved' / 'mine')
    assert moved.champion() == str(tmp_path / 'moved' / 'mine' / 'round_0001' / 'challenger')
    moved.roll_back()
    assert moved.champion() == '/runs/first' and moved.rolled_back_rounds() == [1]


@pytest.mark.parametrize('kept', ['runs/mine/round_0001/challenger', '/gone/mine/round_0001/challenger'])
def test_the_runs_of_rounds_are_found_as_earlier_versions_named_them(tmp_path, kept):
    registry = Registry(tmp_path)
    (registry.round_path(1) / 'challenger').mkdir(parents=True)
    registry.file.write_text(json.dumps({'event': 'promoted', 'model_dir': kept, 'round': 1}) + '\n')
    assert registry.champion() == str(registry.round_path(1) / 'challenger')
    elsewhere = tmp_path / 'another' / 'round_0001' / 'challenger'  # the champion of another registry
    elsewhere.mkdir(parents=True)
    registry.file.write_text(json.dumps({'event': 'adopted', 'model_dir': str(elsewhere)}) + '\n')
    assert registry.champion() == str(elsewhere)
