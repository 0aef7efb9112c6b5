"""What all tables share, by a table of one's own: two splits, columns, unusable rows."""

import dataclasses
import hashlib

import pytest

from palm_jax.data.readers import columns
from palm_jax.data.readers.delimited import Layout
from palm_jax.data.supervised.sources import Table
from palm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Colour:
    texts: tuple[str, ...]
    shade: str


@dataclasses.dataclass(frozen=True)
class Colours(Table[Colour]):
    """A kind of table that says only how a row becomes an example, and what identifies it."""

    column: str = 'name'

    noun = 'colours'

    @property
    def wanted(self):
        return (('COLOUR_COLUMN', self.column), ('SHADE_COLUMN', 'shade'))

    def parse(self, row):
        name = columns.text(row, self.column, 'COLOUR_COLUMN')
        if name == 'octarine':
            raise UserError(f'{row.location}: {name} is not a colour.')
        return Colour((name,), columns.text(row, 'shade', 'SHADE_COLUMN'))

    def keys(self, example):
        return example.texts

    def classes(self, example):
        return (example.shade,)


def written(path, rows, header='name,shade'):
    path.write_text('\n'.join([header, *(','.join(row) for row in rows)]) + '\n')
    return str(path)


def names(table, split):
    return [example.texts[0] for example in table.examples(split)]


def test_the_hash_divides_one_file_into_two_parts(tmp_path):
    rows = [f'colour {i}' for i in range(200)]
    table = Colours(written(tmp_path / 'all.csv', [(name, 'dark') for name in rows]), held_out=4)
    expected = [name for name in rows if int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 4 == 0]
    assert names(table, 'validation') == expected
    assert names(table, 'train') == [name for name in rows if name not in expected]


def test_files_of_their_own_are_read_whole_and_named_in_messages(tmp_path):
    train = written(tmp_path / 'train.csv', [('red', 'dark'), ('blue', 'dark')])
    other = written(tmp_path / 'other.csv', [('pink', 'light'), ('octarine', 'light')])
    with pytest.raises(UserError, match=r'other\.csv, line 3: octarine is not a colour'):
        Colours(train, other).examples('validation')
    bad = tmp_path / 'bad.txt'
    table = Colours(train, other, bad_rows=str(bad))
    assert names(table, 'train') == ['red', 'blue'] and names(table, 'validation') == ['pink']
    assert bad.read_text() == f'{other}, line 3: octarine is not a colour.\n'
    none = written(tmp_path / 'none.csv', [('octarine', 'light')])
    with pytest.raises(
        UserError, match=r"VALIDATION_FILES = '.*none\.csv': the file contains no rows that can be used"
    ):
        Colours(train, none, bad_rows=str(bad)).examples('validation')


def test_a_class_is_not_held_out_completely_and_too_few_rows_are_said_to_be(tmp_path):
    with pytest.raises(UserError, match='TRAIN_FILES is not set: name the file with your colours'):
        Colours(None).examples('train')
    few = written(tmp_path / 'few.csv', [('red', 'dark')])
    with pytest.raises(UserError, match='has 1 colours, too few to hold some out'):
        Colours(few).examples('train')
    alone = written(tmp_path / 'alone.csv', [('red', 'dark'), ('pink', 'light'), ('grey', 'dull')])
    with pytest.raises(UserError, match='has 3 colours, each with a class that no other has'):
        Colours(alone).examples('validation')
    rare = [(f'colour {i}', f'shade {i // 2}') for i in range(40)]
    table = Colours(written(tmp_path / 'rare.csv', rare), held_out=2)
    assert {e.shade for e in table.examples('train')} == {shade for _, shade in rare}
    assert 1 <= len(table.examples('validation')) <= 20


def test_a_file_without_a_header_and_columns_that_are_missing(tmp_path):
    plain = written(tmp_path / 'plain.csv', [('pink', 'light')], header='red,dark')
    table = Colours(plain, plain, columns=['name', 'shade'], quoting=False)
    assert table.layout == Layout.of(['name', 'shade'], False)
    assert names(table, 'train') == ['red', 'pink']
    with pytest.raises(UserError, match=r"no column 'hue'.*COLOUR_COLUMN"):
        Colours(written(tmp_path / 'other.csv', [('red', 'dark')]), column='hue', held_out=1).examples('train')
