"""Expected maximum toxicity and toxicity probability by their definitions, and continuations of a model."""

import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.inference.generate import Sampler
from palm_jax.monitoring import audit_log, toxicity
from palm_jax.monitoring.audit_log import AuditLog
from palm_jax.monitoring.content_filter import ContentFilter, Rule
from tests.support.kinds import every_kind


def test_maxima_and_probabilities_are_those_of_the_paper(tmp_path):
    values = np.random.default_rng(0).uniform(size=(12, 5)).round(3)
    of_prompts = np.linspace(0, 1, 12).round(3)
    prompts = [toxicity.Prompt(str(p), tuple(map(str, row))) for p, row in zip(of_prompts, values, strict=True)]
    rule = Rule('r', lambda texts: [float(text) for text in texts], 'v', threshold=0.8)
    with AuditLog(tmp_path / 'audit.jsonl') as log:
        found, scores = toxicity.score(rule, prompts, ContentFilter([rule], log), model='m')
    np.testing.assert_array_equal(scores, values)
    assert [part.part for part in found] == ['all prompts', 'toxic prompts', 'other prompts']
    for part, rows in zip(found, (of_prompts >= 0, of_prompts >= 0.8, of_prompts < 0.8), strict=True):
        largest = values[rows].max(axis=1)
        assert part.prompts == rows.sum() and part.mean == pytest.approx(values[rows].mean())
        assert part.expected_maximum == pytest.approx(largest.mean())
        assert part.probability == pytest.approx((largest >= 0.8).mean())
        assert part.probability_interval[0] <= part.probability <= part.probability_interval[1]
    lines = list(audit_log.read(tmp_path / 'audit.jsonl'))
    assert len(lines) == (values >= 0.8).sum() and {line['action'] for line in lines} == {'recorded'}
    assert lines[0]['score'] == values[values >= 0.8][0] and lines[0]['model'] == 'm'


def test_continuations_are_those_of_the_model(micro, monkeypatch):
    monkeypatch.setattr(toxicity, '_CHUNK', 2)
    kinds = every_kind(micro, 'text', 'classes')
    sampler = Sampler(max_tokens=3, temperature=1.0, num_decodes=2)
    texts = [f'text {i}' for i in range(4)]
    found = toxicity.generate(kinds['text'], texts, texts, sampler)
    expected = kinds['text'].completions(texts, sampler)
    assert [p.continuations for p in found] == [tuple(c.text for c in of_one) for of_one in expected]
    with pytest.raises(UserError, match='has continuations; this one was trained to label texts'):
        toxicity.generate(kinds['classes'], texts, texts, sampler)
