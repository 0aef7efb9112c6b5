"""The tests: a folder mirrors one of palm_jax; what several share is in `support`."""

import pytest

pytest.register_assert_rewrite('tests.support')
