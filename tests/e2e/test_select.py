"""Rounds of active learning: select, label, train on both tables, and select again."""

import csv

import pytest

from tests.support.programs import run_here
from tests.support.runs import finetune


def read(path):
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


@pytest.fixture
def rows():
    """Texts with their labels: 40 that a run is trained on, and 20 more."""
    return [(f'number {i} is {("even", "odd")[i % 2]}', ('yes', 'no')[i % 2]) for i in range(60)]


@pytest.fixture
def first_round(made, tmp_path, rows):
    """Flags of a selection from a pool by a run on tables/start.csv, and the texts that it chose."""
    tables = tmp_path / 'tables'
    tables.mkdir()
    for path, part in ((tables / 'start.csv', rows[:40]), (tmp_path / 'pool.csv', rows[20:])):
        path.write_text('text,label\n' + ''.join(f'{text},{label}\n' for text, label in part))
    assert finetune(made, tmp_path / 'first', table=tables / 'start.csv', steps=3).returncode == 0
    flags = [f'--gin_file={tmp_path / "first" / "config.gin"}', f'--input={tmp_path / "pool.csv"}', '--count=6']
    result = run_here('palm_jax.cli.select', *flags, f'--output={tables / "round_1.csv"}')
    assert result.returncode == 0, result.stderr
    assert '40 rows: 20 labelled already, 0 repeated, 0 unusable, 20 new' in result.stdout, result.stdout
    return flags, read(tables / 'round_1.csv')


def test_what_has_a_label_is_not_chosen(first_round, tmp_path, rows):
    flags, chosen = first_round
    first, others = tmp_path / 'tables' / 'round_1.csv', tmp_path / 'others.csv'
    assert len(chosen) == 6 and list(chosen[0]) == ['text', 'label', 'score', 'reason']
    texts = {row['text'] for row in chosen}
    assert {row['label'] for row in chosen} == {''} and texts <= {text for text, _ in rows[40:]}
    again = run_here('palm_jax.cli.select', *flags, f'--output={first}')
    assert again.returncode == 2 and 'may have labels in it' in again.stderr
    labels = f'--exclude={first}', '--copy_labels', '--strategy=badge', '--count=99'
    result = run_here('palm_jax.cli.select', *flags, f'--output={others}', *labels)
    assert result.returncode == 0 and '14 texts by badge of 99 that were asked for' in result.stdout, result.stderr
    assert {(row['text'], row['label']) for row in read(others)} == {row for row in rows[40:] if row[0] not in texts}


@pytest.mark.slow
def test_the_next_round_starts_from_the_last(made, first_round, tmp_path, rows):
    flags, chosen = first_round
    tables, answers = tmp_path / 'tables', dict(rows)
    with (tables / 'round_1.csv').open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, list(chosen[0]))
        writer.writeheader()
        writer.writerows(row | {'label': answers[row['text']]} for row in chosen)
    second = tmp_path / 'second'
    assert finetune(made, second, table=tables / '*.csv', steps=3).returncode == 0
    flags = [f'--gin_file={second / "config.gin"}', *flags[1:], f'--output={tables / "round_2.csv"}']
    result = run_here('palm_jax.cli.select', *flags, '--strategy=random')
    assert '26 labelled already, 0 repeated, 0 unusable, 14 new' in result.stdout, result.stderr
    assert not {row['text'] for row in read(tables / 'round_2.csv')} & {row['text'] for row in chosen}


def test_models_that_do_not_label_texts_are_refused(made, tmp_path):
    flags = (
        f'--gin_file={made / "base" / "config.gin"}',
        f'--input={made / "text.txt"}',
        f'--output={tmp_path / "a.csv"}',
    )
    result = run_here('palm_jax.cli.select', *flags)
    assert result.returncode == 2 and 'is for models that label texts or tag words' in result.stderr
