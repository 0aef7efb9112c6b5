"""Memorization: Min-K%, exposure against brute force, and a run on text."""

import math

import pytest

from palm_jax.errors import UserError
from palm_jax.microscope.memorization import exposures, min_k, windows
from tests.support.kinds import every_kind


def test_min_k_is_the_mean_of_the_least_likely_fifth():
    assert min_k([-1.0, -5.0, -2.0, -3.0, -4.0, -9.0, -1.0, -1.0, -1.0, -1.0]) == -7.0 and min_k([-2.0]) == -2.0


def test_exposure_is_the_rank_among_all_other_digits(micro):
    model = every_kind(micro, 'text')['text']
    text = 'pin 42'
    (found,) = exposures(model, [text], 1000, 0, 32)
    totals = {f'pin {n:02d}': model.score([('', f'pin {n:02d}')])[0].total for n in range(100)}
    rank = 1 + sum(total > totals[text] for total in totals.values())
    assert (found.rank, found.others) == (rank, 99) and found.exposure == pytest.approx(
        math.log2(100) - math.log2(rank)
    )
    (sampled,) = exposures(model, ['code 123456789'], 50, 0, 32)
    assert sampled.others == 50 and 1 <= sampled.rank <= 51
    with pytest.raises(UserError, match='has no digits'):
        exposures(model, ['pin'], 10, 0, 32)


@pytest.mark.parametrize('kind', ['classes', 'chat'])
def test_other_kinds_of_model_are_refused(micro, kind, tmp_path):
    model = every_kind(micro, kind)[kind]
    with pytest.raises(UserError, match=f'models that were trained on a corpus of text; .* {model.predictor.purpose}'):
        windows(model, tmp_path, 4, 8)
