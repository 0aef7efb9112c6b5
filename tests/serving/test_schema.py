"""Schemathesis reads the OpenAPI document and asks everything it allows, and much that it does not."""

import pytest
from hypothesis import HealthCheck, given, settings

from palm_jax.serving.limits import Limits
from tests.support.server import running

schemathesis = pytest.importorskip('schemathesis', reason='pip install "palm_jax[test]"')

CHECKED = (
    'not_a_server_error', 'status_code_conformance', 'content_type_conformance', 'response_schema_conformance',
    'negative_data_rejection',
)  # fmt: skip


@pytest.mark.parametrize('mode', ['POSITIVE', 'NEGATIVE'])
def test_every_answer_is_one_that_is_documented(served, mode):
    schemathesis.checks.load_all_checks()
    with running(served, Limits(max_tokens=4)) as site:
        check_all(schemathesis.openapi.from_url(f'{site.url}/openapi.json'), mode)


def check_all(schema, mode):
    checks = [schemathesis.checks.CHECKS.get_one(name) for name in CHECKED]
    asked, statuses = set(), set()
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode == 'NEGATIVE' and not (operation.body or operation.query):
            continue

        @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
        @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        def ask(case):
            if mode == 'POSITIVE' and isinstance(case.body, dict):
                case.body['model'] = 'base'  # else almost everything is the same 404
            response = case.call()
            case.validate_response(response, checks=checks)
            asked.add(case.operation.label)
            statuses.add(response.status_code)

        ask()
    assert len(asked) >= (9 if mode == 'POSITIVE' else 4), asked
    assert (200 if mode == 'POSITIVE' else 400) in statuses, statuses
