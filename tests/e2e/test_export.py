"""A base and what was fine-tuned on it, exported by the command of the README, opened by Transformers and peft."""

import shutil

import numpy as np
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from palm_jax.api import loading
from tests.support.programs import run_here
from tests.support.runs import finetune


def export(run, directory, *flags):
    result = run_here('palm_jax.cli.export', f'--gin_file={run}/config.gin', *flags, directory)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


TEXT_TO_TEXT = (
    '--gin_file=gin/heads/text_to_text.gin',
    '--gin.INPUT_TEMPLATE={text}',
    '--gin.TARGET_TEMPLATE={label}',
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 8}",
)


@pytest.mark.parametrize('flags', [(), pytest.param(TEXT_TO_TEXT, marks=pytest.mark.slow)], ids=['classes', 'text'])
def test_a_base_and_an_adapter_on_it_go_out_and_are_opened(made, classifier, tmp_path, flags):
    if flags:
        result = finetune(made, tmp_path / 'run', *flags, steps=3)
        assert result.returncode == 0, result.stderr[-3000:]
    else:
        shutil.copytree(classifier, tmp_path / 'run')
    export(made / 'base', tmp_path / 'base', '--format=hf')
    export(tmp_path / 'run', tmp_path / 'adapter', '--format=peft', f'--base={tmp_path}/base')
    said = export(tmp_path / 'run', tmp_path / 'whole', '--format=hf')
    if not flags:  # a head: to a class that labels texts
        assert 'code       Transformers has no CohereForSequenceClassification' in said
        whole = pipeline('text-classification', str(tmp_path / 'whole'), trust_remote_code=True, top_k=None)
        (expected,) = loading.load(tmp_path / 'run').predict(['number 7 is odd'])
        (rows,) = whole(['number 7 is odd'])
        assert {row['label']: row['score'] for row in rows} == pytest.approx(expected, abs=1e-4)
        return
    base = AutoModelForCausalLM.from_pretrained(tmp_path / 'base')
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / 'whole')
    ids = AutoTokenizer.from_pretrained(tmp_path / 'whole')('number 7 is odd', return_tensors='pt').input_ids
    assert loading.load(tmp_path / 'run').data.vocabulary.encode('number 7 is odd') == ids[0, 1:].tolist()
    before = base(ids).logits.detach().numpy()
    merged = whole(ids).logits.detach().numpy()
    adapted = PeftModel.from_pretrained(base, tmp_path / 'adapter')(ids).logits.detach().numpy()
    np.testing.assert_allclose(adapted, merged, rtol=1e-4, atol=1e-5)
    assert np.abs(adapted - before).max() > 1e-3
