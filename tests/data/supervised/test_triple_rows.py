"""Triples beside the rows of a task: right and wrong ones, functions of the seed and of the number of the row."""

import numpy as np
import pytest

from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.data.supervised.triple_rows import WithTriples
from palm_jax.errors import UserError

N = 40


@pytest.fixture
def task(tmp_path):
    (tmp_path / 'table.csv').write_text('text,label\n' + ''.join(f'text {i},{"ab"[i % 2]}\n' for i in range(30)))
    return LabelledText(LabelledTable(str(tmp_path / 'table.csv')), {'inputs': 20}, 'bytes')


@pytest.fixture
def facts(tmp_path):
    lines = [f'node {i}\t{name}\tnode {(i + step) % N}' for i in range(N) for step, name in ((1, 'next'), (5, 'far'))]
    (tmp_path / 'facts.tsv').write_text('\n'.join(lines))
    return str(tmp_path / 'facts.tsv')


def decoded(data, tokens, segments):
    return data.vocabulary.decode(tokens[segments > 0][:-1]).strip('\0 ')


def test_rows_have_known_triples_and_wrong_ones(task, facts):
    data = WithTriples(task, facts, beside=3)
    batch, plain = data.batch(5, 40), task.batch(5, 40)
    for name, values in plain.items():
        np.testing.assert_array_equal(batch[name], values)
    known = {(h, r, t) for h, r, t in data.facts('train')}
    sides = batch['triple_corrupts_tail']
    assert batch['triple_tokens'].shape == (40, 3, 3, 16) and 0.3 < sides.mean() < 0.7
    for row, k in np.ndindex(40, 3):
        pairs = zip(batch['triple_tokens'][row, k], batch['triple_segment_ids'][row, k], strict=True)
        head, tail, other = (data.entities.index(decoded(data, *pair)) for pair in pairs)
        relation = batch['triple_relations'][row, k]
        assert (head, relation, tail) in known
        assert ((head, relation, other) if sides[row, k] else (other, relation, tail)) not in known
    later = data.batch(25, 4)
    for name, values in later.items():
        np.testing.assert_array_equal(values, batch[name][20:24], err_msg=name)
    assert {n: (v.shape, v.dtype) for n, v in data.blank().items()} == {
        n: (v.shape[1:], v.dtype) for n, v in batch.items()
    }


def test_held_out_triples_are_of_known_entities(task, facts, tmp_path):
    data = WithTriples(task, facts)
    train, held_out = data.facts('train'), data.facts('validation')
    assert len(train) + len(held_out) == 2 * N and 0 < len(held_out) <= N and not set(train) & set(held_out)
    assert {x for h, _, t in held_out for x in (h, t)} <= {x for h, _, t in train for x in (h, t)}
    assert (
        f'triples    {len(train)} triples, 1 beside each row; {len(held_out)} held out; 40 entities' in data.describe()
    )
    assert all(data.identity()[split] != task.identity()[split] for split in ('train', 'validation'))
    (tmp_path / 'more.tsv').write_text('node 1\tnext\tnode 3\n')
    named = WithTriples(task, facts, str(tmp_path / 'more.tsv'))
    (fact,) = named.facts('validation')
    tails, heads = named.known_answers()
    assert len(named.facts('train')) == 2 * N and len(tails[fact[:2]]) == 2 and len(heads[fact[1:]]) == 2


def test_entities_of_a_single_triple_can_be_held_out(task, tmp_path):
    (tmp_path / 'once.tsv').write_text(''.join(f'city {i}\tcapital\tland {i}\n' for i in range(30)))
    data = WithTriples(task, str(tmp_path / 'once.tsv'))
    assert 0 < len(data.facts('validation')) < 15 and len(data.entities) == 60


def test_what_cannot_be_used_is_refused(task, facts, tmp_path):
    with pytest.raises(UserError, match=r'has 2 relations, more than MAX_RELATIONS = 1. Set --gin.MAX_RELATIONS=2'):
        WithTriples(task, facts, max_relations=1).batch(0, 1)
    with pytest.raises(UserError, match='TRIPLES is not set'):
        WithTriples(task, None).batch(0, 1)
    (tmp_path / 'one.tsv').write_text('a\tr\tb\n')
    with pytest.raises(UserError, match=r'has 1 triple, none of which can be held out.*VALIDATION_TRIPLES'):
        WithTriples(task, str(tmp_path / 'one.tsv')).batch(0, 1)
    (tmp_path / 'two.tsv').write_text('a\tr\tb\nb\tr\ta\n')
    with pytest.raises(UserError, match='is about 2 entities, too few'):
        WithTriples(task, str(tmp_path / 'two.tsv')).batch(0, 1)
