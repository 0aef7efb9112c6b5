"""What a server keeps: rows, feedback, redaction, retention."""

import contextlib
import sqlite3
import time

import pytest

from palm_jax.errors import UserError
from palm_jax.monitoring.redaction import load_hook, mask
from palm_jax.monitoring.request_log import RequestLog, read


def test_rows_and_the_last_feedback_to_them(tmp_path):
    log = RequestLog(tmp_path / 'kept.db')
    log.add('r1', 'intents', 'runs/x/1', '/v1/classify', ['a', ('b', 'c')], [{'label': 'x'}, {'label': 'y'}])
    log.add('r2', 'other', 'runs/y/1', '/v1/completions', ['d'], [{'text': 'e'}])
    assert log.add_feedback('r1', 1, label='z') and log.add_feedback('r1', 1, rating='down')
    assert log.add_feedback('r1', 1, label='w', comment='no, w') and not log.add_feedback('r1', 2, label='z')
    assert not log.add_feedback('r9', 0, rating='up')
    log.close()
    log = RequestLog(tmp_path / 'kept.db')  # what was kept is still there
    first, second, third = read(tmp_path / 'kept.db')
    assert (first.input, first.answer, first.label, first.rating) == ('a', {'label': 'x'}, None, None)
    assert (second.input, second.label, second.rating, second.model) == (['b', 'c'], 'w', 'down', 'intents')
    assert third.checkpoint == 'runs/y/1' and third.endpoint == '/v1/completions'
    assert [k.id for k in read(tmp_path / 'kept.db', 'other')] == ['r2']
    assert [k.number for k in read(tmp_path / 'kept.db', with_label=True)] == [1]
    assert not list(read(tmp_path / 'kept.db', since=time.time() + 1))
    log.close()


@pytest.mark.parametrize('name', ['a#b.db', 'what?mode=rwc.db', '100%25.db', 'a b\u2028ü.db', 'not \udcff UTF-8.db'])
def test_a_file_may_have_any_name(tmp_path, name):
    log = RequestLog(tmp_path / name)
    log.add('r', 'm', 'c', '/v1/classify', ['a'], [{}])
    log.close()
    assert [k.id for k in read(tmp_path / name)] == ['r']
    assert all(path.name.startswith(name) for path in tmp_path.iterdir())


@pytest.mark.parametrize('damage', [
    lambda path: path.write_bytes(path.read_bytes()[:5000]),
    lambda path: path.write_bytes(b'x' * 5000),
    lambda path: path.write_bytes(path.read_bytes()[:16] + bytes(4000) + path.read_bytes()[4016:]),
    lambda path: change(path, "UPDATE requests SET answer = '{\"label'"),
    lambda path: change(path, 'ALTER TABLE feedback DROP COLUMN rating'),
])  # fmt: skip
def test_a_damaged_file_is_one_message(tmp_path, damage):
    path = tmp_path / 'kept.db'
    log = RequestLog(path)
    for number in range(100):
        log.add(f'r{number}', 'm', 'c', '/v1/classify', ['a' * 50], [{'label': 'b'}])
    log.close()
    damage(path)
    with pytest.raises(UserError, match=r'kept\.db does not hold requests of a server'):
        list(read(path))


def change(path, statement):
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


def test_what_is_old_is_deleted(tmp_path):
    log = RequestLog(tmp_path / 'kept.db', keep_days=2)
    for name in ('old', 'new'):
        log.add(name, 'm', 'c', '/v1/classify', ['a'], [{}])
        log.add_feedback(name, 0, rating='up')
    with sqlite3.connect(tmp_path / 'kept.db') as database:
        database.execute('UPDATE requests SET time = time - 3 * 86400 WHERE id = ?', ('old',))
    assert log.delete_old() == 1
    assert [k.id for k in read(tmp_path / 'kept.db')] == ['new'] and not log.add_feedback('old', 0, rating='up')
    log.close()


@pytest.mark.parametrize('text, masked', [
    ('write to ann.b+c@mail.example.org now', 'write to [email] now'),
    ('card 4111 1111 1111 1111, please', 'card [card], please'),
    ('IBAN DE89 3704 0044 0532 0130 00.', 'IBAN [iban].'),
    ('call +49 (30) 901820 or 030-1234567', 'call [phone] or [phone]'),
    ('from 192.168.10.254', 'from [ip]'),
    ('I paid 25.50 on 3 May for 2 items', 'I paid 25.50 on 3 May for 2 items'),
])  # fmt: skip
def test_personal_data_is_masked(text, masked):
    assert mask(text) == masked


def test_texts_are_redacted_wherever_they_are(tmp_path):
    log = RequestLog(tmp_path / 'kept.db', load_hook('mask'))
    log.add(
        'r', 'm', 'c', 'e', [[{'role': 'user', 'content': 'I am a@b.de'}]], [{'text': 'Hello a@b.de', 'number': 4.0}]
    )
    log.add_feedback('r', 0, label='a@b.de')
    (kept,) = read(tmp_path / 'kept.db')
    assert kept.input == [{'role': 'user', 'content': 'I am [email]'}] and kept.label == '[email]'
    assert kept.answer == {'text': 'Hello [email]', 'number': 4.0}
    log.close()


def test_mistakes_end_in_one_message(tmp_path):
    with pytest.raises(UserError, match='name the file that palm-jax serve --keep=FILE wrote'):
        list(read(tmp_path / 'none.db'))
    (tmp_path / 'text.db').write_text('no database ' * 99)
    with pytest.raises(UserError, match='does not hold requests of a server'):
        list(read(tmp_path / 'text.db'))
    with pytest.raises(UserError, match='cannot keep requests'):
        RequestLog(tmp_path / 'text.db')
    for name, message in (
        ('masked', "write 'mask'"),
        ('nowhere:f', 'No module named'),
        ('json:nothing', 'no attribute'),
    ):
        with pytest.raises(UserError, match=message):
            load_hook(name)
    assert load_hook('none') is None and load_hook('html:escape')('<') == '&lt;'


def test_a_hook_that_fails_keeps_nothing_and_costs_no_answer(tmp_path, caplog):
    log = RequestLog(tmp_path / 'kept.db', lambda text: text + 1)
    log.add('r', 'm', 'c', 'e', ['a'], [{}])
    assert not list(read(tmp_path / 'kept.db')) and 'could not be kept' in caplog.text
    log.close()
