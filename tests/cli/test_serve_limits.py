"""What `palm-jax serve` takes from its environment: the key, and how many files may be open."""

import resource
import socket

import pytest

from palm_jax.cli import serve
from palm_jax.errors import UserError


@pytest.mark.parametrize('value, token', [('secret', 'secret'), (' secret\n', 'secret'), ('', None), ('  ', None)])
def test_the_key_of_the_environment(monkeypatch, value, token):
    monkeypatch.setenv('PALM_JAX_TOKEN', value)
    assert serve._token() == token


@pytest.mark.parametrize('value', ['geheim-ä', 'a\nb'])
def test_a_key_that_no_header_holds_is_refused(monkeypatch, value):
    monkeypatch.setenv('PALM_JAX_TOKEN', value)
    with pytest.raises(UserError, match='PALM_JAX_TOKEN has characters that a header cannot hold'):
        serve._token()


def test_a_database_that_is_not_there_is_found_before_a_model_is_loaded(tmp_path):
    pytest.importorskip('psycopg')
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    flags = [f'--model={tmp_path / "nothing"}', f'--keep=postgresql://ann:secret@127.0.0.1:{port}/requests']
    with pytest.raises(UserError, match=r'postgresql://ann:\*\*\*@127.* cannot be opened'):
        serve.main(flags)
    with pytest.raises(UserError, match='nothing'):
        serve.main([flags[0], f'--keep={tmp_path / "requests.db"}'])
    assert not (tmp_path / 'requests.db').exists()


def test_connections_are_as_many_as_the_system_allows(capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
        assert serve._max_connections(100) == 100
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 456  # raised
        if hard != resource.RLIM_INFINITY:
            assert serve._max_connections(hard) == (hard - 256) // 2
            assert f'at most {(hard - 256) // 2:,} connections' in capsys.readouterr().out
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_port_in_use_is_one_message():
    with socket.create_server(('127.0.0.1', 0)) as used:
        port = used.getsockname()[1]
        with pytest.raises(UserError, match=f'--port={port}: .*Try another port: --port='):
            serve._listening('127.0.0.1', port)
