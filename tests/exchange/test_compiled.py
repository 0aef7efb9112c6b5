"""Compiled models in one file, run by jax without this code and by the interpreter of TFLite."""

import subprocess
import sys

import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.exchange import compiled
from palm_jax.inference.generate import Sampler
from palm_jax.labels.single_label import SingleLabel
from palm_jax.models.heads import Head
from palm_jax.models.palm import PaLM
from palm_jax.peft.lora import LoRA
from palm_jax.peft.method import AdaptedModel
from palm_jax.predictors.label_predictor import LabelPredictor
from palm_jax.predictors.language_model_predictor import LanguageModelPredictor
from tests.support.models import initial, shaken
from tests.support.vocabularies import Numbers

L = 32


def batch(rows=3):
    tokens = np.random.default_rng(0).integers(3, 61, (rows, L)).astype(np.int32)
    ones = np.ones_like(tokens)
    return {
        'decoder_input_tokens': np.pad(tokens, [(0, 0), (1, 0)])[:, :-1],
        'decoder_target_tokens': tokens,
        'decoder_loss_weights': ones,
        'decoder_segment_ids': ones,
    }


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_stablehlo_is_run_by_jax_alone(dtype, micro, tmp_path):
    model, params = micro(dtype=dtype)
    table = compiled.write_stablehlo(LanguageModelPredictor(), model, params, L, tmp_path / 'out', [batch()])
    (_, *rows) = [line.split() for line in table.splitlines()[1:]]
    assert rows[0][0] == 'model.stablehlo' and float(rows[0][-1]) < 1e-5
    code = 'import sys; sys.modules["palm_jax"] = None; import runpy; runpy.run_path(sys.argv.pop(1))'
    prompt = [5, 9, 12]
    command = [sys.executable, '-c', code, str(tmp_path / 'out' / 'run.py'), *map(str, prompt)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    said = list(map(int, result.stdout.split()))
    assert len(said) == 23 and said[:3] == prompt
    (ours,) = Sampler(max_tokens=20, temperature=0).generate(model, params, Numbers(), [[0, *prompt]], L)[0]
    assert said[3 : 3 + len(ours.ids)] == list(ours.ids)
    with pytest.raises(UserError, match='is not empty'):
        compiled.write_stablehlo(LanguageModelPredictor(), model, params, L, tmp_path / 'out', [batch()])


@pytest.mark.parametrize(
    ('head', 'dtype'), [(None, 'float32'), (None, 'bfloat16'), (Head(3), 'float32')], ids=['words', 'half', 'classes']
)
def test_tflite_computes_the_same_and_in_int8_nearly_so(head, dtype, micro, tmp_path):
    arch = micro(d_model=64, vocab_size=256, dtype=dtype)[0].arch
    model = AdaptedModel(PaLM(arch, head=head), (LoRA(rank=2),))
    params = shaken(initial(model))
    predictor = LanguageModelPredictor() if head is None else LabelPredictor(SingleLabel())
    table = compiled.write_tflite(predictor, model, params, L, tmp_path / 'out', [batch()])
    header, plain, exact, small = table.splitlines()
    assert ('loss' in header) == (head is None) and plain.startswith('the model')
    assert float(exact.split()[-1]) < 1e-3 * 60 and exact.startswith('model.tflite')
    quality = [row.split()[-2].rstrip('%') for row in (exact, small)]
    if head is None:
        assert float(quality[0]) == pytest.approx(float(plain.split()[-2]), abs=1e-3)
        assert float(quality[1]) == pytest.approx(float(quality[0]), rel=0.05)
    else:
        assert quality[0] == '100.0'
    sizes = [(tmp_path / 'out' / name).stat().st_size for name in ('model.tflite', 'model_int8.tflite')]
    assert sizes[1] < 0.5 * sizes[0]
