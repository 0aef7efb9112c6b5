"""A name that gin files had before (tests/goldens/gin_names.json) still exists, or is refused with its new one."""

import json
import re

import pytest

from palm_jax.configuration.load import load
from palm_jax.errors import UserError
from tests.support import gin_names

EARLIER = json.loads(gin_names.EARLIER.read_text())


@pytest.fixture(scope='module')
def now():
    """The names of the code as it is."""
    return gin_names.names()


def refused(name, value='1'):
    """The message that refuses a flag of this name."""
    with pytest.raises(UserError) as caught:
        load('loop.train', ['gin/pretrain_tiny.gin'], [(name, value)])
    return str(caught.value)


def test_an_earlier_macro_exists_or_its_message_names_the_new_one(now):
    for name in EARLIER['macros'].keys() - now['macros'].keys():
        words = set(re.findall(r'\w+', refused(name).splitlines()[0]))
        assert name in words and words & (now['macros'].keys() - EARLIER['macros'].keys()), name


def test_an_earlier_binding_exists_or_its_message_names_the_new_one(now):
    for configurable, earlier in EARLIER['configurables'].items():
        parameters = now['configurables'].get(configurable, {'parameters': []})['parameters']
        for parameter in set(earlier['parameters']) - set(parameters):
            name = f'{configurable}.{parameter}'
            words = set(re.findall(r'[\w.]+', refused(name).splitlines()[0]))
            assert any(
                f'{new}.{parameter}' in words
                for new, its in now['configurables'].items()
                for parameter in its['parameters']
                if f'{new}.{parameter}' != name
            ), name
