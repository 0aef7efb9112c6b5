"""Where programs keep what they make once."""

import os
import subprocess
import sys
from pathlib import Path

from palm_jax.cache_directory import cache_dir, keep_compiled


def kept_in(monkeypatch, cache, chosen=None):
    monkeypatch.setenv('PALM_JAX_CACHE', str(cache))
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
    if chosen is not None:
        monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', chosen)
    keep_compiled()
    return os.environ.get('JAX_COMPILATION_CACHE_DIR')


def test_compiled_programs_are_kept_by_kind_of_cpu(monkeypatch, tmp_path):
    directory = Path(kept_in(monkeypatch, tmp_path / 'new'))
    assert directory.is_dir() and directory.parent == cache_dir() / 'compiled'
    assert kept_in(monkeypatch, tmp_path / 'new') == str(directory)


def test_a_directory_of_the_user_is_left_alone(monkeypatch, tmp_path):
    assert kept_in(monkeypatch, tmp_path, 'elsewhere') == 'elsewhere'
    assert kept_in(monkeypatch, tmp_path, '') == '' and not list(tmp_path.iterdir())


def test_nothing_is_kept_where_nothing_can_be_written(monkeypatch, tmp_path):
    (tmp_path / 'file').write_text('')
    assert kept_in(monkeypatch, tmp_path / 'file') is None


def test_a_second_process_finds_what_the_first_has_compiled(tmp_path):
    program = """
import palm_jax.cache_directory
palm_jax.cache_directory.keep_compiled()
import jax, jax.monitoring
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((8, 8)))
print('/jax/compilation_cache/cache_hits' in events)
"""
    removed = 'JAX_COMPILATION_CACHE_DIR', 'JAX_ENABLE_COMPILATION_CACHE'
    env = {name: value for name, value in os.environ.items() if name not in removed}
    env |= {'PALM_JAX_CACHE': str(tmp_path), 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
    call = [sys.executable, '-c', program]
    found = [subprocess.run(call, env=env, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert found == ['False\n', 'True\n']
