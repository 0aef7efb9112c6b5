"""Export to Transformers and import: the same logits, text and ids; mismatches are reported as a table."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from palm_jax.api.trained_model import load
from palm_jax.data.registry import stdlib
from palm_jax.data.vocabulary import fitting, vocabularies
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import HuggingFace
from palm_jax.errors import UserError
from palm_jax.exchange import cohere, hf_directory, hf_tokenizer, imports
from palm_jax.inference.generate import Sampler
from palm_jax.models.palm import PaLM
from tests.support.published import PUBLISHED, published

torch = pytest.importorskip('torch', reason='the peers are not installed: pip install "palm_jax[hf]"')
transformers = pytest.importorskip('transformers')
BYTES = ExtendedVocabulary(vocabularies.Bytes(), 11)
SHAPES = {
    'palm': {},
    'grouped, H·K > d': {'num_kv_heads': 2, 'head_dim': 10, 'rope_theta': 500_000.0, 'mlp_dim': 40, 'logit_scale': 0.3},
}


def written(model, params, vocabulary, directory, **options):
    hf_directory.write(params, model.arch, vocabulary, 64, directory, **options)
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.mark.parametrize('changes', SHAPES.values(), ids=SHAPES)
def test_transformers_opens_what_is_written_and_continues_alike(micro, tmp_path, changes):
    model, params = micro(vocab_size=BYTES.size, **changes)
    theirs = written(model, params, BYTES, tmp_path / 'out', shard_bytes=20_000)
    assert type(theirs).__name__ == 'CohereForCausalLM'
    assert len(list((tmp_path / 'out').glob('model-*-of-*.safetensors'))) > 2  # and an index
    assert 'logits     differ by at most' in hf_directory.verify(tmp_path / 'out', params, model.arch, BYTES, 64)
    # With their tokenizer, their generation, greedily.
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
    prompts = ['def f(x):', 'naïve ▁ 中文']
    ours = Sampler(max_tokens=12, temperature=0.0)(model, params, BYTES, prompts, 64)
    for prompt, expected in zip(prompts, ours, strict=True):
        ids = tokenizer(prompt, return_tensors='pt').input_ids
        out = theirs.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        said = [i for i in out[0, ids.shape[1] :].tolist() if i != 1]
        assert BYTES.decode(said) == expected


def test_half_the_bytes_in_half_precision(micro, tmp_path):
    model, params = micro(vocab_size=BYTES.size)
    sizes = {}
    for dtype in ('float32', 'bfloat16'):
        written(model, params, BYTES, tmp_path / dtype, dtype=dtype)
        hf_directory.verify(tmp_path / dtype, params, model.arch, BYTES, 64)
        sizes[dtype] = (tmp_path / dtype / 'model.safetensors').stat().st_size
    assert sizes['bfloat16'] < 0.6 * sizes['float32']


def test_a_damaged_export_is_not_called_good(micro, tmp_path):
    model, params = micro(vocab_size=BYTES.size)
    written(model, params, BYTES, tmp_path / 'out')
    other = jax.tree.map(lambda x: x * 1.01, params)
    with pytest.raises(UserError, match=r'logits differ by .* do not use it'):
        hf_directory.verify(tmp_path / 'out', other, model.arch, BYTES, 64)
    with pytest.raises(UserError, match='is not empty'):
        hf_directory.write(params, model.arch, BYTES, 64, tmp_path / 'out')


@pytest.mark.parametrize('ablation', [{'norm': 'rmsnorm'}, {'parallel': False}, {'qk_norm': True}])
def test_a_block_that_cohere_has_not_is_refused(micro, tmp_path, ablation):
    model, params = micro(vocab_size=BYTES.size, **ablation)
    with pytest.raises(UserError, match=f'Cohere does not support {next(iter(ablation))}'):
        hf_directory.write(params, model.arch, BYTES, 64, tmp_path / 'out')


@pytest.fixture(scope='module')
def sentencepiece(tmp_path_factory):
    texts = (example['text'] for example in stdlib.examples('train'))
    path = tmp_path_factory.mktemp('vocabulary') / 'v.model'
    return ExtendedVocabulary(fitting.fit(texts, 1000, path, max_bytes=400_000), 20)


def test_sentencepiece_as_a_tokenizer_of_hugging_face(sentencepiece, tmp_path):
    texts = [e['text'][:3000] for e, _ in zip(stdlib.examples('validation'), range(40), strict=False)]
    texts += ['  two  blanks\n\n\ttab', '1234567 3.14', '中文 😀 é', 'x' * 500]
    hf_tokenizer.write(sentencepiece, tmp_path, 64)
    assert hf_tokenizer.differences(sentencepiece, tmp_path, texts) == []
    assert hf_tokenizer.differences(BYTES, tmp_path, texts[:2]) == texts[:2]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == sentencepiece.size
    for i in (sentencepiece.special_id('[MASK]'), sentencepiece.sentinel(0), sentencepiece.sentinel(13)):
        assert tokenizer.decode([i]) == sentencepiece.decode([i])
    padded = tokenizer(['a', 'longer text'], padding=True)
    assert padded['input_ids'][0][0] == 0 and padded['attention_mask'][0][0] == 0


# The other way.


@pytest.mark.parametrize('changes', PUBLISHED.values(), ids=PUBLISHED)
def test_published_weights_compute_the_same_here(tmp_path, changes):
    theirs, tokenizer = published(tmp_path / 'theirs', **changes)
    imports.from_hf(tmp_path / 'theirs', tmp_path / 'ours')
    model = load(tmp_path / 'ours')
    text = 'the square of 7 is 49 — naïve'
    ids = [0, *model.data.vocabulary.encode(text)]
    their_ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids]
    rows = np.r_[model.data.vocabulary.text.original_ids, np.arange(model.data.vocabulary.size, 320)]
    assert rows[ids].tolist() == their_ids and model.data.vocabulary.decode([*ids, 1]) == text
    with torch.no_grad():
        expected = theirs(torch.tensor([their_ids])).logits.numpy()[0]
    arch = dataclasses.replace(model.model.arch, dtype='float32')
    logits = np.asarray(PaLM(arch).apply({'params': model.params}, np.array([ids])))[0]
    np.testing.assert_allclose(logits, expected[:, rows], atol=1e-5 * np.abs(expected).max(), rtol=0)
    assert isinstance(model.generate(['the square'])[0], str)
    # And back: the same tensors under the same names.
    hf_directory.write(model.params, arch, model.data.vocabulary, 64, tmp_path / 'back')
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'back', dtype=torch.float32)
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), tensor.numpy(), err_msg=name)
    assert again.config.eos_token_id == tokenizer.eos_token_id and again.config.bos_token_id == 5
    hf_directory.verify(tmp_path / 'back', model.params, arch, model.data.vocabulary, 64)


def test_what_does_not_fit_is_one_table(tmp_path):
    from safetensors.numpy import load_file, save_file

    theirs = tmp_path / 'theirs'
    published(theirs, **PUBLISHED['grouped'])
    tensors = {}
    for path in theirs.glob('*.safetensors'):
        tensors |= load_file(path)
        path.unlink()
    (theirs / 'model.safetensors.index.json').unlink()
    del tensors['model.layers.1.mlp.up_proj.weight']
    tensors['model.layers.0.self_attn.k_norm.weight'] = np.ones(8, np.float32)
    tensors['model.norm.weight'] = np.ones(65, np.float32)
    save_file(tensors, theirs / 'model.safetensors')
    with pytest.raises(UserError) as error:
        imports.from_hf(theirs, tmp_path / 'ours')
    message = ' '.join(str(error.value).split())
    assert message.startswith('3 tensors of')
    assert 'model.layers.1.mlp.up_proj.weight missing (96, 64)' in message
    assert 'model.norm.weight (65,) (64,)' in message
    assert 'model.layers.0.self_attn.k_norm.weight (8,) no such tensor' in message
    assert not (tmp_path / 'ours').exists()
    (theirs / 'model.safetensors').write_bytes(b'no tensors')
    with pytest.raises(UserError, match='truncated or invalid safetensors file'):
        imports.from_hf(theirs, tmp_path / 'ours')


def test_other_models_are_refused(tmp_path):
    with pytest.raises(UserError, match=r'has no config\.json'):
        imports.from_hf(tmp_path, tmp_path / 'ours')
    for config, message in (
        ({'model_type': 'llama'}, "describes a 'llama' model"),
        ({'model_type': 'cohere', 'use_qk_norm': True, 'attention_bias': True}, 'use_qk_norm = True, attention_bias'),
        ({'model_type': 'cohere', 'rope_scaling': {'type': 'linear', 'factor': 2}}, "rope_parameters = .*'linear'"),
    ):
        (tmp_path / 'config.json').write_text(json.dumps(config))
        with pytest.raises(UserError, match=message):
            imports.from_hf(tmp_path, tmp_path / 'ours')
    # Published before Transformers 5, and without a dimension of heads.
    arch = cohere.architecture(
        {
            'model_type': 'cohere', 'vocab_size': 9, 'num_hidden_layers': 1, 'hidden_size': 64,
            'num_attention_heads': 8, 'intermediate_size': 7, 'rope_theta': 8e6, 'logit_scale': 0.0625,
        }
    )  # fmt: skip
    assert (arch.head_dim, arch.num_kv_heads, arch.rope_theta, arch.norm_epsilon) == (8, 8, 8e6, 1e-5)


def test_a_tokenizer_json_is_a_vocabulary(tmp_path):
    published(tmp_path / 'theirs', **PUBLISHED['grouped'])
    vocabulary = vocabularies.load_vocabulary(str(tmp_path / 'theirs' / 'tokenizer.json'))
    assert isinstance(vocabulary, HuggingFace)
    for text in ('', 'the square of 3', ' 中文 \n'):
        assert vocabulary.decode(vocabulary.encode(text)) == text
    assert not {0, 1} & set(vocabulary.encode('the square of 3 <PAD>'))  # what begins and ends a text
    vocabulary.save(tmp_path / 'kept')
    kept = vocabularies.load_vocabulary(str(tmp_path / 'kept' / 'vocabulary.json'))
    assert kept.fingerprint == vocabulary.fingerprint and kept.encode('abc') == vocabulary.encode('abc')
    for content, message in (
        ('{', 'is not a valid tokenizer.json'),
        ('{"model": {"vocab": {}}}', 'does not define distinct bos_token'),
    ):
        (tmp_path / 'theirs' / 'tokenizer.json').write_text(content)
        with pytest.raises(UserError, match=message):
            vocabularies.load_vocabulary(str(tmp_path / 'theirs' / 'tokenizer.json')).encode('a')
    with pytest.raises(UserError, match='No vocabulary at'):
        vocabularies.load_vocabulary(str(tmp_path / 'nothing.json')).encode('a')
