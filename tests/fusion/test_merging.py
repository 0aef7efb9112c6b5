"""Merging against NumPy and against peft's functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.fusion.merging import DARE, TIES, Soup, WiSEFT


@pytest.fixture(scope='module')
def trees():
    """A base, and three members with a head that the base lacks."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    base = {'stack': {'kernel': draw(6, 5)}, 'embed': draw(7)}
    member = lambda: {'stack': {'kernel': draw(6, 5)}, 'embed': draw(7), 'head': {'kernel': draw(5, 2)}}  # noqa: E731
    return base, [member() for _ in range(3)]


def test_a_soup_is_the_mean(trees):
    _, members = trees
    expected = jax.tree.map(lambda *x: np.mean(x, axis=0), *members)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), Soup()(None, members), expected)


@pytest.mark.parametrize('alpha', [0.0, 0.3, 1.0])
def test_wise_ft_interpolates_and_averages_what_the_base_lacks(trees, alpha):
    base, members = trees
    found, mean = WiSEFT(alpha)(base, members), Soup()(None, members)
    expected = (1 - alpha) * base['embed'] + alpha * mean['embed']
    np.testing.assert_allclose(found['embed'], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found['head']['kernel'], mean['head']['kernel'])


@pytest.mark.parametrize('density', [0.2, 0.5, 1.0])
def test_ties_is_that_of_peft(trees, density):
    torch, merging = pytest.importorskip('torch'), pytest.importorskip('peft.utils.merge_utils')
    base, members = trees
    found = TIES(density, scale=0.7)(base, members)
    for read in (lambda tree: tree['stack']['kernel'], lambda tree: tree['embed']):
        tasks = [torch.tensor(np.asarray(read(member) - read(base))) for member in members]
        merged = merging.ties(tasks, torch.ones(len(tasks)), density=density)
        np.testing.assert_allclose(read(found), read(base) + 0.7 * merged.numpy(), rtol=1e-5, atol=1e-6)


def test_dare_keeps_a_share_rescales_it_and_is_the_task_vector_on_average(trees):
    base, members = trees
    wide = {'kernel': jnp.zeros((200, 200))}
    found = DARE(0.75, seed=3)(wide, [{'kernel': jnp.ones((200, 200))}])['kernel']
    assert set(np.unique(found)) == {0.0, 4.0} and float((found != 0).mean()) == pytest.approx(0.25, abs=0.02)
    assert not np.array_equal(found, DARE(0.75, seed=4)(wide, [{'kernel': jnp.ones((200, 200))}])['kernel'])
    whole, mean = DARE(0.0)(base, members), Soup()(None, members)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole, mean)


def test_dtypes_are_those_of_the_members(trees):
    base, members = jax.tree.map(lambda x: x.astype(jnp.bfloat16), trees)
    for merge in (Soup(), WiSEFT(), TIES(), DARE()):
        assert {x.dtype for x in jax.tree.leaves(merge(base, members))} == {jnp.dtype(jnp.bfloat16)}


def test_shares_outside_of_their_bounds_are_refused():
    for wrong in (lambda: TIES(0.0), lambda: TIES(1.5), lambda: DARE(1.0), lambda: WiSEFT(-0.1)):
        with pytest.raises(UserError, match='must be'):
            wrong()
