"""Initial tokens of soft prompts."""

import pytest

from palm_jax.data.vocabulary.prompts import initial_ids
from palm_jax.errors import UserError


def test_a_text_is_repeated_and_a_label_takes_a_position():
    a, b = (ord(character) + 3 for character in 'ab')
    assert initial_ids('bytes', 5, text='ab') == [[a], [b], [a], [b], [a]]
    assert initial_ids('bytes', 1, text='ab') == [[a]]
    assert initial_ids('bytes', 3, labels=['ab', 'b']) == [[a, b], [b]]  # the third is a common token
    assert initial_ids('bytes', 3) is None


@pytest.mark.parametrize(
    'given, message',
    [
        ({'text': 'a', 'labels': ['b']}, 'are both set'),
        ({'text': ''}, 'PROMPT_TEXT is empty'),
        ({'labels': ['a', '']}, 'none of them may be empty'),
        ({'labels': ['a', 'b', 'c']}, 'PROMPT_LABELS has 3 labels for PROMPT_LENGTH = 2'),
    ],
)
def test_what_cannot_initialize_a_prompt_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        initial_ids('bytes', 2, **given)
