"""Suggestions of the closest name."""

from palm_jax.errors import closest


def test_the_closest_name_is_suggested_in_any_case_or_none():
    assert closest('TRIAN', ['train', 'eval']) == ' Did you mean train?'
    assert closest('xyz', ['train', 'eval']) == '' and closest('train', []) == ''
