"""A trained model as one file that needs none of this code: StableHLO for jax, TFLite for small devices.

Both take int32 tokens [1, L] behind the start mark, padded at the end; of a model with a head also
int32 segment ids [1, L], 1 where a token is and 0 where padding. They give float32 logits [1, L, V],
or the head's scores.
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
from palm_jax.inference import decoding
from palm_jax.models.model import Model

Function = Callable[..., Any]
_PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
_EXAMPLES = 16  # of the held-out part, on which what was written is compared

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


def function(model: Model, params: Any) -> Function:
    """The function that the file holds, with the weights as constants."""
    # One program for several platforms cannot hold kernels that are lowered for one of them, as `auto` may choose.
    attention = 'blocks' if model.arch.attention == 'auto' else model.arch.attention
    model = model.clone(arch=dataclasses.replace(model.arch, attention=attention))
    model, params = decoding.unstack_layers(model, params)  # apart, every matrix is one a converter knows

    def compute(*inputs: jax.Array) -> jax.Array:
        if getattr(model, 'head', None) is None:
            return model.apply({'params': params}, *inputs)
        return model.apply({'params': params}, inputs[0], None, inputs[1], method='scores')

    return compute


def write_stablehlo(model: Model, params: Any, length: int, directory: Path, batches: Sequence[dict]) -> str:
    """model.stablehlo and run.py, which needs jax alone.

    Args:
      model, params: with methods or without.
      length: L.
      directory: new or empty.
      batches: held-out examples, on which the file is compared with the model.

    Returns:
      What was compared, as a table.
    """
    plain, specs = function(model, params), _specs(model, length)
    # The constraint on memory order is not among the calls whose compatibility StableHLO guarantees.
    unguaranteed = jax.export.DisabledSafetyCheck.custom_call('LayoutConstraint')
    exported = jax.export.export(jax.jit(plain), platforms=_PLATFORMS, disabled_checks=[unguaranteed])(*specs)
    _prepare(directory)
    (directory / 'model.stablehlo').write_bytes(exported.serialize())
    if len(specs) == 1:
        (directory / 'run.py').write_text(_RUNNER)
    again = jax.export.deserialize(bytearray((directory / 'model.stablehlo').read_bytes()))
    return _compared(plain, {'model.stablehlo': jax.jit(again.call)}, directory, specs, batches)


def write_tflite(model: Model, params: Any, length: int, directory: Path, batches: Sequence[dict]) -> str:
    """model.tflite, and model_int8.tflite with the large matrices in eight bits; arguments as of `write_stablehlo`.

    TFLite has no products in half precision: a model of such a `dtype` computes in float32 there.
    """
    import tensorflow as tf
    from jax.experimental import jax2tf

    model = model.clone(arch=dataclasses.replace(model.arch, dtype='float32'))
    plain, specs = function(model, params), _specs(model, length)
    signature = [tf.TensorSpec(spec.shape, tf.int32) for spec in specs]
    # Lowered for a platform without variants of its own: TFLite does not know the constraint on memory order of CPUs.
    converted = jax2tf.convert(plain, with_gradient=False, native_serialization_platforms=('rocm',))
    wrapped = tf.function(converted, input_signature=signature, autograph=False)
    _prepare(directory)
    calls = {}
    for name, optimizations in (('model.tflite', []), ('model_int8.tflite', [tf.lite.Optimize.DEFAULT])):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([wrapped.get_concrete_function()], wrapped)
        converter.optimizations = optimizations
        (directory / name).write_bytes(converter.convert())
        calls[name] = _interpreter(directory / name)
    return _compared(plain, calls, directory, specs, batches)


def _specs(model: Model, length: int) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct((1, length), np.int32)] * (1 if getattr(model, 'head', None) is None else 2)


def _prepare(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise UserError(f'{directory} is not empty. Name another directory.')


def _interpreter(file: Path) -> Function:
    """A TFLite file as a function, run by the interpreter that is here."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tensorflow.lite.python.interpreter import Interpreter
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that TensorFlow's will become LiteRT's
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


def _compared(
    plain: Function, calls: dict[str, Function], directory: Path, specs: Sequence[Any], batches: Sequence[dict]
) -> str:
    """Size, time a call, and the loss or the answers on held-out examples, beside the model itself."""
    names = ('decoder_input_tokens', 'decoder_segment_ids')[: len(specs)]
    examples = [
        [np.asarray(batch[name][row : row + 1], np.int32) for name in names] + [batch, row]
        for batch in batches
        for row in range(len(batch[names[0]]))
    ][:_EXAMPLES]
    expected: list[np.ndarray] = []
    lines = [
        f'{"":20}{"size":>10}{"ms a call":>11}{"loss" if len(specs) == 1 else "same answer":>13}{"differs by":>12}'
    ]
    for name, call in {'the model': jax.jit(plain), **calls}.items():
        seconds, losses, same, difference = [], [], [], 0.0
        for i, (*arrays, batch, row) in enumerate(examples):
            start = time.perf_counter()
            out = np.asarray(call(*arrays))
            seconds.append(time.perf_counter() - start)
            if len(expected) <= i:
                expected.append(out)
            difference = max(difference, float(np.abs(out - expected[i]).max()))
            same.append(np.mean(out.argmax(-1) == expected[i].argmax(-1)))
            if len(specs) == 1:
                losses.append(_loss(out[0], batch['decoder_target_tokens'][row], batch['decoder_loss_weights'][row]))
        size = '' if name == 'the model' else f'{(directory / name).stat().st_size / 2**20:.1f} MiB'
        totals, counts = (sum(x) for x in zip(*losses, strict=True)) if losses else (0, 1)
        quality = f'{totals / max(counts, 1):.4f}' if losses else f'{np.mean(same):.1%}'
        milliseconds = statistics.median(seconds) * 1e3
        lines.append(f'{name:20}{size:>10}{milliseconds:>11.2f}{quality:>13}{difference:>12.2e}')
        if (
            name != 'the model'
            and 'int8' not in name
            and not difference <= 1e-3 * max(np.abs(x).max() for x in expected)
        ):
            raise UserError(f'{directory / name} computes something else:\n' + '\n'.join(lines))
    return '\n'.join(lines)


def _loss(logits_LV: np.ndarray, targets_L: np.ndarray, weights_L: np.ndarray) -> tuple[float, float]:
    """Sum of the cross-entropy and how many targets it counts."""
    x = logits_LV.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    logp = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(logp, np.asarray(targets_L)[:, None], axis=-1)[:, 0]
    return float(-(chosen * weights_L).sum()), float(np.sum(weights_L))
