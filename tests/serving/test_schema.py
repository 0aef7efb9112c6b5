"""Schemathesis reads the OpenAPI document and asks everything it allows, and much that it does not."""

import pytest
from hypothesis import HealthCheck, settings

from palm_jax.inference.engine import Engine
from palm_jax.serving import app, models
from palm_jax.serving.limits import Limits

schemathesis = pytest.importorskip('schemathesis', reason='pip install "palm_jax[test]"')

CHECKED = (
    'not_a_server_error', 'status_code_conformance', 'content_type_conformance', 'response_schema_conformance',
    'negative_data_rejection',
)  # fmt: skip


@pytest.fixture
def api(served):
    engine = Engine(places=4, max_waiting=1000, chunk=4)
    models.fill(engine, served)
    return schemathesis.openapi.from_asgi('/openapi.json', app.create_app(served, engine, Limits(max_tokens=4)))


schema = schemathesis.pytest.from_fixture('api')


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_answer_is_one_that_is_documented(case):
    schemathesis.checks.load_all_checks()
    if isinstance(case.body, dict) and 'model' in case.body:
        case.body['model'] = 'base'  # else almost everything is the same 404
    case.call_and_validate(checks=[schemathesis.checks.CHECKS.get_one(name) for name in CHECKED])
