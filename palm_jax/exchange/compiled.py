"""A trained model as one file that runs without this code: StableHLO for jax, TFLite for small devices.

The function in the file is that of the model's predictor. A model that generates text takes int32 tokens [1, L], BOS
included and padded at the end, and gives float32 logits [1, L, V]. A model with a head also takes int32 segment ids
[1, L], 1 for tokens and 0 for padding, and gives the head's scores; where the model was trained with bidirectional
attention, the segment's tokens attend to one another in both directions. `described` writes what is beside the file.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from palm_jax.errors import UserError
from palm_jax.exchange.directories import prepare
from palm_jax.inference import decoding
from palm_jax.models.model import Model
from palm_jax.predictors.generator import Generator
from palm_jax.predictors.predictor import Predictor

Function = Callable[..., Any]
_PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
_EXAMPLES = 16  # held-out examples on which the file is compared with the model

_RUNNER = '''"""python run.py 17 42 ...: continues token ids greedily. Needs jax alone."""
import pathlib, sys
import jax, numpy as np
from jax import export

model = export.deserialize(bytearray((pathlib.Path(__file__).parent / 'model.stablehlo').read_bytes()))
ids, length = [0, *map(int, sys.argv[1:])], model.in_avals[0].shape[1]
for _ in range(min(20, length - len(ids))):
    logits = model.call(np.array([ids + [0] * (length - len(ids))], np.int32))
    ids.append(int(np.argmax(logits[0, len(ids) - 1])))
print(*ids[1:])
'''


def function(predictor: Predictor, model: Model, params: Any, bidirectional: bool = False) -> Function:
    """Return the function that a file holds, with the weights as constants; see `write_stablehlo`."""
    # One program for several platforms cannot hold kernels that are lowered for one of them, as `auto` may choose.
    attention = 'blocks' if model.arch.attention == 'auto' else model.arch.attention
    model = model.clone(arch=dataclasses.replace(model.arch, attention=attention))
    model, params = decoding.unstack_layers(model, params)  # converters know matrices, not stacks of them

    def compute(*features: jax.Array) -> jax.Array:
        both_directions = features[1:2] if bidirectional else ()  # as far as the tokens go
        return predictor.apply(model, params, *features, *both_directions)

    return compute


def write_stablehlo(
    predictor: Predictor,
    model: Model,
    params: Any,
    length: int,
    directory: Path,
    batches: Sequence[dict],
    bidirectional: bool = False,
) -> str:
    """Write model.stablehlo and, for a model that generates text, run.py, which needs only jax.

    Args:
      predictor: kind of task; its `apply` is exported.
      model: module, with or without methods.
      params: its parameters.
      length: L.
      directory: new or empty directory.
      batches: held-out batches on which the file is compared with the model.
      bidirectional: whether the tokens of a text attend to one another in both directions, for a model with a head.

    Returns:
      A table of the comparison.

    Raises:
      UserError: if the directory is not empty, or the file computes something else than the model.
    """
    plain, specs = function(predictor, model, params, bidirectional), _specs(predictor, length)
    # The constraint on memory order is not among the calls whose compatibility StableHLO guarantees.
    unguaranteed = jax.export.DisabledSafetyCheck.custom_call('LayoutConstraint')
    exported = jax.export.export(jax.jit(plain), platforms=_PLATFORMS, disabled_checks=[unguaranteed])(*specs)
    prepare(directory)
    (directory / 'model.stablehlo').write_bytes(exported.serialize())
    if isinstance(predictor, Generator):
        (directory / 'run.py').write_text(_RUNNER, encoding='utf-8')
    again = jax.export.deserialize(bytearray((directory / 'model.stablehlo').read_bytes()))
    return _compare(predictor, plain, {'model.stablehlo': jax.jit(again.call)}, directory, batches)


def write_tflite(
    predictor: Predictor,
    model: Model,
    params: Any,
    length: int,
    directory: Path,
    batches: Sequence[dict],
    bidirectional: bool = False,
) -> str:
    """Write model.tflite, and model_int8.tflite with the large matrices in eight bits; see `write_stablehlo`.

    TFLite has no matrix products in half precision, so models of such a `dtype` compute in float32 there.
    """
    import tensorflow as tf
    from jax.experimental import jax2tf

    model = model.clone(arch=dataclasses.replace(model.arch, dtype='float32'))
    plain, specs = function(predictor, model, params, bidirectional), _specs(predictor, length)
    signature = [tf.TensorSpec(spec.shape, tf.int32) for spec in specs]
    # Lowered for a platform without variants of its own: TFLite does not know the constraint on memory order of CPUs.
    converted = jax2tf.convert(plain, with_gradient=False, native_serialization_platforms=('rocm',))
    wrapped = tf.function(converted, input_signature=signature, autograph=False)
    prepare(directory)
    calls = {}
    for name, optimizations in (('model.tflite', []), ('model_int8.tflite', [tf.lite.Optimize.DEFAULT])):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([wrapped.get_concrete_function()], wrapped)
        converter.optimizations = optimizations
        (directory / name).write_bytes(converter.convert())
        calls[name] = _interpreter(directory / name)
    return _compare(predictor, plain, calls, directory, batches)


def _specs(predictor: Predictor, length: int) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct((1, length), np.int32)] * len(predictor.features)


def _interpreter(file: Path) -> Function:
    """Return a TFLite file as a function, run by the installed interpreter."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tensorflow.lite.python.interpreter import Interpreter
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # TensorFlow's interpreter is deprecated in favor of LiteRT's
        interpreter = Interpreter(str(file), num_threads=2)
    interpreter.allocate_tensors()
    inputs = sorted(interpreter.get_input_details(), key=lambda detail: detail['name'])
    (output,) = interpreter.get_output_details()

    def call(*arrays: np.ndarray) -> np.ndarray:
        for detail, array in zip(inputs, arrays, strict=True):
            interpreter.set_tensor(detail['index'], array)
        interpreter.invoke()
        return interpreter.get_tensor(output['index'])

    return call


def _compare(
    predictor: Predictor, plain: Function, calls: dict[str, Function], directory: Path, batches: Sequence[dict]
) -> str:
    """Return a table of the size, the time per call and the quality of each file on held-out examples.

    The quality is the loss if the examples have target tokens, otherwise the share of equal answers.
    """
    examples = [
        ([np.asarray(batch[name][row : row + 1], np.int32) for name in predictor.features], batch, row)
        for batch in batches
        for row in range(len(batch[predictor.features[0]]))
    ][:_EXAMPLES]
    has_targets = 'decoder_target_tokens' in examples[0][1] and isinstance(predictor, Generator)
    expected = [np.asarray(jax.jit(plain)(*arrays)) for arrays, _, _ in examples]
    scale = max(np.abs(x).max() for x in expected)
    lines = [f'{"":20}{"size":>10}{"ms per call":>12}{"loss" if has_targets else "same answer":>13}{"differs by":>12}']
    functions: dict[str, Function] = {'the model': jax.jit(plain), **calls}
    for name, call in functions.items():
        outputs, seconds = zip(*(_timed(call, arrays) for arrays, _, _ in examples), strict=True)
        difference = max(float(np.abs(out - x).max()) for out, x in zip(outputs, expected, strict=True))
        if has_targets:
            losses = [
                _loss(out[0], batch['decoder_target_tokens'][row], batch['decoder_loss_weights'][row])
                for out, (_, batch, row) in zip(outputs, examples, strict=True)
            ]
            total, count = map(sum, zip(*losses, strict=True))
            quality = f'{total / max(count, 1):.4f}'
        else:
            same = [np.mean(out.argmax(-1) == x.argmax(-1)) for out, x in zip(outputs, expected, strict=True)]
            quality = f'{np.mean(same):.1%}'
        size = '' if name == 'the model' else f'{(directory / name).stat().st_size / 2**20:.1f} MiB'
        milliseconds = statistics.median(seconds) * 1e3
        lines.append(f'{name:20}{size:>10}{milliseconds:>12.2f}{quality:>13}{difference:>12.2e}')
        if 'int8' not in name and not difference <= 1e-3 * scale:
            raise UserError(f'{directory / name} computes something else than the model:\n' + '\n'.join(lines))
    return '\n'.join(lines)


def _timed(call: Function, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """Return the result of a call and its duration in seconds."""
    start = time.perf_counter()
    return np.asarray(call(*arrays)), time.perf_counter() - start


def _loss(logits_LV: np.ndarray, targets_L: np.ndarray, weights_L: np.ndarray) -> tuple[float, float]:
    """Return the sum of the cross-entropy, and the number of targets that it counts."""
    x = logits_LV.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    logp = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(logp, np.asarray(targets_L)[:, None], axis=-1)[:, 0]
    return float(-(chosen * weights_L).sum()), float(np.sum(weights_L))
