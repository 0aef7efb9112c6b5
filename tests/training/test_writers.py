"""Metrics on disk: no step doubled or missing after a crash."""

import json
import math

import numpy as np

from palm_jax.reports.plots import plot_losses
from palm_jax.training import metrics, writers


def test_jsonl_drops_what_came_after_the_restored_step(tmp_path):
    writer = writers.Jsonl()
    writer.open(tmp_path, 0, '')
    for step in (10, 20, 30):
        writer.write(step, {'train/loss': 1.0 / step})
    writer.close()
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 40, "train/l')  # killed while writing
    writer = writers.Jsonl()
    writer.open(tmp_path, 20, '')
    writer.write(30, {'train/loss': 5.0})
    writer.close()
    records = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert [(r['step'], r['train/loss']) for r in records] == [(10, 0.1), (20, 0.05), (30, 5.0)]
    plot_losses(tmp_path)
    assert (tmp_path / 'loss.png').read_bytes().startswith(b'\x89PNG')


def test_tensorboard_reads_what_was_written(tmp_path):
    writer = writers.TensorBoard()
    writer.open(tmp_path, 0, 'config')
    writer.write(7, {'train/loss': 2.5})
    writer.write(8, {'train/loss': math.nan})  # has no point
    writer.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / 'tensorboard'))
    events.Reload()
    (scalar,) = events.Scalars('train/loss')
    assert (scalar.step, scalar.value) == (7, 2.5)


def test_ratios_add_before_they_divide():
    parts = [
        {'loss': metrics.Ratio(np.float32(6), np.float32(2))},
        {'loss': metrics.Ratio(np.float32(1), np.float32(8))},
    ]
    assert metrics.total(parts)['loss'].value() == 0.7
    assert np.isnan(metrics.Ratio(np.float32(0), np.float32(0)).value())
