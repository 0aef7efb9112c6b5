"""The curve of metrics over perturbations of the embedded inputs."""

import types

import jax
import numpy as np

from palm_jax.partitioning import MeshLayout
from palm_jax.reports.perturbation import PerturbationCurve
from palm_jax.reports.report import Measurements
from palm_jax.training.result import EvaluationInput
from tests.support.wrapped import LOSSES, build, features


def test_the_loss_rises_along_the_gradient_and_begins_where_it_is(tmp_path):
    model, _, params = build('class', dropout_rate=0.0)
    batch = features('class')
    task = types.SimpleNamespace(
        measure=lambda inputs: Measurements({'loss': 1.0}), metric_names=lambda data: ['f1'], sampler='its sampler'
    )
    reporter = PerturbationCurve(task, LOSSES['class'], sizes=(1e-3, 0.5))
    data = types.SimpleNamespace(validation_by_length=lambda size: ((np.arange(4), batch) for _ in range(2)))
    mesh = MeshLayout().mesh(jax.devices()[:1])
    measured = reporter.measure(EvaluationInput(model, params, data, mesh, 4, 0, None, None))
    curve = measured.details['perturbation']
    assert list(curve) == ['0', '0.001', '0.5'] and curve['0']['loss'] < curve['0.001']['loss'] < curve['0.5']['loss']
    plain = jax.jit(lambda params: LOSSES['class'](model, params, batch)[1])(params)
    np.testing.assert_allclose(curve['0']['loss'], plain['loss'].value(), rtol=1e-6)
    assert measured.metrics == {'loss': 1.0} and 'accuracy' in measured.lines[-1]
    assert measured.tables['Perturbed inputs'][0] == ('norm', 'loss', 'accuracy')
    measured.figures['perturbation.png'](tmp_path / 'curve.png')
    assert (tmp_path / 'curve.png').stat().st_size > 1000
    assert reporter.metric_names(data) == ['f1'] and reporter.sampler == 'its sampler'
