"""What a server keeps: rows, feedback, redaction, retention."""

import contextlib
import sqlite3
import threading
import time
import uuid

import pytest

from palm_jax.errors import UserError
from palm_jax.monitoring.redaction import load_hook, mask
from palm_jax.monitoring.request_database import check_place
from palm_jax.monitoring.request_log import RequestLog, read
from palm_jax.wording import without_passwords
from tests.support import postgresql as server_of_tests


@pytest.fixture(scope='module')
def postgresql():
    """A PostgreSQL server."""
    with server_of_tests.running() as server:
        yield server


@pytest.fixture(params=['SQLite', 'PostgreSQL'])
def place(request, tmp_path):
    """Where requests are kept: a file, or the URL of a PostgreSQL schema of its own."""
    if request.param == 'SQLite':
        return tmp_path / 'kept.db'
    return schema(request.getfixturevalue('postgresql'))


def schema(server):
    """The URL of a new schema."""
    import psycopg

    name = f'schema_{uuid.uuid4().hex}'
    with psycopg.connect(server.url) as connection:
        connection.execute(f'CREATE SCHEMA {name}')
    return f'{server.url}?options=-csearch_path%3D{name}'


def change(place, statement, *parameters):
    """Run a statement on a database, whose parameters are question marks."""
    if isinstance(place, str):
        import psycopg

        with psycopg.connect(place) as connection:
            connection.execute(statement.replace('?', '%s'), parameters)
        return
    with contextlib.closing(sqlite3.connect(place)) as database, database:
        database.execute(statement, parameters)


def test_rows_and_the_last_feedback_to_them(place):
    log = RequestLog(place)
    log.add('r1', 'intents', 'runs/x/1', '/v1/classify', ['a', ('b', 'c')], [{'label': 'x'}, {'label': 'y'}])
    log.add('r2', 'other', 'runs/y/1', '/v1/completions', ['d'], [{'text': 'e'}])
    assert log.add_feedback('r1', 1, label='z') and log.add_feedback('r1', 1, rating='down')
    assert log.add_feedback('r1', 1, label='w', comment='no, w') and not log.add_feedback('r1', 2, label='z')
    assert not log.add_feedback('r9', 0, rating='up')
    log.close()
    log = RequestLog(place)  # what was kept is still there
    first, second, third = read(place)
    assert (first.input, first.answer, first.label, first.rating) == ('a', {'label': 'x'}, None, None)
    assert (second.input, second.label, second.rating, second.model) == (['b', 'c'], 'w', 'down', 'intents')
    assert third.checkpoint == 'runs/y/1' and third.endpoint == '/v1/completions'
    assert [k.id for k in read(place, 'other')] == ['r2']
    assert [k.number for k in read(place, with_label=True)] == [1]
    assert not list(read(place, since=time.time() + 1))
    assert not list(read(place, 'other', since=time.time() + 1))
    with pytest.raises(
        UserError, match=r"no model 'intent'\. Did you mean intents\? Models that answered: intents, other"
    ):
        list(read(place, 'intent'))
    assert abs(first.time - time.time()) < 60
    assert [k.id for k in read(place, since=third.time)] == ['r2']  # times are not rounded
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


def test_what_is_old_is_deleted(place):
    log = RequestLog(place, keep_days=2)
    for name in ('old', 'new'):
        log.add(name, 'm', 'c', '/v1/classify', ['a'], [{}])
        log.add_feedback(name, 0, rating='up')
    change(place, 'UPDATE requests SET time = time - 3 * 86400 WHERE id = ?', 'old')
    assert log.delete_old() == 1
    assert [k.id for k in read(place)] == ['new'] and not log.add_feedback('old', 0, rating='up')
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


def test_texts_are_redacted_wherever_they_are(place):
    log = RequestLog(place, load_hook('mask'))
    log.add(
        'r', 'm', 'c', 'e', [[{'role': 'user', 'content': 'I am a@b.de'}]], [{'text': 'Hello a@b.de', 'number': 4.0}]
    )
    log.add_feedback('r', 0, label='a@b.de')
    (kept,) = read(place)
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


def test_a_hook_that_fails_keeps_nothing_and_costs_no_answer(place, caplog):
    log = RequestLog(place, lambda text: text + 1)
    log.add('r', 'm', 'c', 'e', ['a'], [{}])
    assert not list(read(place)) and 'could not be kept' in caplog.text
    log.close()


def test_a_request_is_kept_once_and_by_many_threads(place):
    log = RequestLog(place)

    def add(number):
        for i in range(10):
            log.add(f'r{number}-{i}', 'm', 'c', '/v1/classify', ['a', 'b\u2028 \\0 é 😀'], [{}, {'x': 'é'}])
            log.add_feedback(f'r{number}-{i}', 1, label=f'{i}')

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.add('r0-0', 'm', 'c', '/v1/classify', ['again', 'again'], [{}, {}])
    rows = list(read(place))
    log.close()
    assert len(rows) == 80 and sum(k.label is not None for k in rows) == 40
    assert {k.input for k in rows} == {'a', 'b\u2028 \\0 é 😀'}


def test_tables_of_others_are_refused(place):
    change(place, 'CREATE TABLE requests (mine TEXT)')
    with pytest.raises(UserError, match='cannot keep requests: '):
        RequestLog(place)
    with pytest.raises(UserError, match='does not hold requests of a server'):
        list(read(place))


def test_an_empty_schema_holds_no_requests(postgresql):
    with pytest.raises(UserError, match=r'does not hold requests of a server: relation "requests" does not exist'):
        list(read(schema(postgresql)))


def test_two_servers_make_the_tables_at_once(postgresql):
    url, logs = schema(postgresql), []
    threads = [threading.Thread(target=lambda: logs.append(RequestLog(url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(logs) == 4
    for number, log in enumerate(logs):
        log.add(f'r{number}', 'm', 'c', '/v1/classify', ['a'], [{}])
        log.close()
    assert len(list(read(url))) == 4


def test_a_user_who_may_not_make_tables_writes_to_those_that_are_there(postgresql):
    url = schema(postgresql)
    RequestLog(url).close()
    name = url.rpartition('%3D')[2]
    change(url, f"CREATE ROLE {name} LOGIN PASSWORD 'p'")
    change(url, f'GRANT USAGE ON SCHEMA {name} TO {name}')
    change(url, f'GRANT SELECT, INSERT, DELETE ON ALL TABLES IN SCHEMA {name} TO {name}')
    log = RequestLog(url.replace('keeper:open%20sesame', f'{name}:p'))
    log.add('r', 'm', 'c', '/v1/classify', ['a'], [{}])
    assert log.add_feedback('r', 0, label='b')
    log.close()
    assert [k.label for k in read(url)] == ['b']


def test_a_restart_of_the_database_costs_no_answer(postgresql, caplog):
    url = schema(postgresql)
    log = RequestLog(url)
    log.add('before', 'm', 'c', '/v1/classify', ['a'], [{}])
    postgresql.stop()
    log.add('while it is away', 'm', 'c', '/v1/classify', ['a'], [{}])
    assert 'could not be kept in postgresql://keeper:***@127.0.0.1' in caplog.text and 'sesame' not in caplog.text
    with pytest.raises(log.errors):
        log.add_feedback('before', 0, rating='up')
    with pytest.raises(UserError, match=r'keeper:\*\*\*@127\.0\.0\.1:\d+.* cannot be opened \(.*refused'):
        RequestLog(url)
    postgresql.start()
    log.add('after', 'm', 'c', '/v1/classify', ['a'], [{}])
    assert log.add_feedback('before', 0, rating='up')
    log.close()
    assert [k.id for k in read(url)] == ['before', 'after']


def test_wrong_urls_end_in_one_message_without_the_password(postgresql):
    with pytest.raises(
        UserError, match=r'keeper:\*\*\*@.* cannot be opened \(a password can be in PGPASSWORD'
    ) as refused:
        RequestLog(postgresql.url.replace('open', 'shut'))
    assert 'sesame' not in str(refused.value)
    with pytest.raises(UserError, match='database "nothing" does not exist'):
        RequestLog(postgresql.url.replace('/postgres', '/nothing'))


def test_a_database_that_cannot_hold_every_text_is_refused(postgresql):
    import psycopg

    with psycopg.connect(postgresql.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    with pytest.raises(UserError, match=r'/latin has the encoding LATIN1.*createdb --encoding=UTF8'):
        RequestLog(postgresql.url.replace('/postgres', '/latin'))


@pytest.mark.parametrize('text, message', [
    ('requests.txt', "'requests.txt' must end in .db, e.g. requests.db, or be a URL"),
    ('postgressql://host/a', 'postgressql:// is not supported. Did you mean postgresql'),
    ('mysql://ann:secret@host/a', r'mysql://ann:\*\*\*@host/a: mysql:// is not supported'),
])  # fmt: skip
def test_a_place_is_a_file_or_a_url(text, message):
    with pytest.raises(UserError, match=message):
        check_place(text)
    assert check_place('a/b.db') == 'a/b.db' and check_place('postgres://h/n') == 'postgres://h/n'


@pytest.mark.parametrize('text, shown', [
    ('postgresql://ann:se:cr@t@host:5432/db', 'postgresql://ann:***@host:5432/db'),
    ('--keep=postgres://:secret@/db?host=/tmp', '--keep=postgres://:***@/db?host=/tmp'),
    ('postgresql://host/db?user=ann&password=secret&x=1', 'postgresql://host/db?user=ann&password=***&x=1'),
    ('postgresql://ann@host/db', 'postgresql://ann@host/db'),
    ('http://127.0.0.1:8000/a@b', 'http://127.0.0.1:8000/a@b'),
    ('runs/a:b@c.db', 'runs/a:b@c.db'),
])  # fmt: skip
def test_passwords_are_left_out(text, shown):
    assert without_passwords(text) == shown
