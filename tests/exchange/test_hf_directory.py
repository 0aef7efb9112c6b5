"""Export to Transformers and import: the same logits, text and ids; mismatches are reported as a table."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest

from palm_jax.api.loading import load
from palm_jax.data.registry import stdlib
from palm_jax.data.vocabulary import fitting, vocabularies
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import HuggingFace
from palm_jax.errors import UserError
from palm_jax.exchange import hf_config, hf_directory, hf_tokenizer, imports
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


@pytest.mark.parametrize(
    'changes',
    [pytest.param(PUBLISHED[n], id=n, marks=() if n == 'grouped' else pytest.mark.slow) for n in PUBLISHED],
)
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
    logits = np.asarray(jax.jit(PaLM(arch).apply)({'params': model.params}, np.array([ids])))[0]
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
    sizes = dict.fromkeys(
        ('vocab_size', 'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size'), 8
    )
    cohere = {'model_type': 'cohere', **sizes}
    for config, message in (
        ({'model_type': 'mamba'}, "describes a 'mamba' model.* Known: cohere, cohere2, llama"),
        ({'model_type': 'llama'}, r'config\.json lacks vocab_size, hidden_size'),
        (cohere | {'use_qk_norm': True, 'attention_bias': True}, 'attention_bias = True, use_qk_norm = True'),
        (cohere | {'rope_scaling': {'type': 'yarn', 'factor': 2}}, "rope_parameters = .*'yarn'"),
        (cohere | {'rope_parameters': {'rope_type': 'llama3', 'factor': 2}}, 'lacks low_freq_factor, high_freq_factor'),
        (cohere | {'rope_parameters': 7}, 'rope_parameters is 7'),
        (cohere | {'hidden_size': '64'}, "hidden_size is '64'; it must be a whole number"),
        (cohere | {'layer_norm_eps': None, 'logit_scale': -1}, 'logit_scale is -1'),
        (cohere | {'num_hidden_layers': 10**9}, r'num_hidden_layers is 1,000,000,000; it must be at most 10,000'),
        (cohere | {'hidden_act': 'relu'}, "hidden_act = 'relu'"),
        (cohere | {'quantization_config': {'bits': 4}}, 'quantization_config = '),
        ([], 'it holds no object'),
    ):
        (tmp_path / 'config.json').write_text(json.dumps(config))
        with pytest.raises(UserError, match=message):
            imports.from_hf(tmp_path, tmp_path / 'ours')
    for content in (json.dumps(cohere)[:-20].encode(), b'\xff\xfe', b'', b'[' * 100_000):
        (tmp_path / 'config.json').write_bytes(content)
        with pytest.raises(UserError, match=r'config\.json is cut or not JSON'):
            imports.from_hf(tmp_path, tmp_path / 'ours')
    assert not (tmp_path / 'ours').exists()
    # Published before Transformers 5, and without a dimension of heads.
    arch = hf_config.architecture(
        {
            'model_type': 'cohere', 'vocab_size': 9, 'num_hidden_layers': 1, 'hidden_size': 64,
            'num_attention_heads': 8, 'intermediate_size': 7, 'rope_theta': 8e6, 'logit_scale': 0.0625,
        }
    )  # fmt: skip
    assert (arch.head_dim, arch.num_kv_heads, arch.rope_theta, arch.norm_epsilon) == (8, 8, 8e6, 1e-5)


def rewritten(directory, change):
    """Changes the content of a directory's config.json."""
    config = json.loads((directory / 'config.json').read_text())
    change(config)
    (directory / 'config.json').write_text(json.dumps(config))


def imported_logits(directory, theirs, tmp_path):
    """Says what an import says, and asserts that the logits here are those of `theirs`."""
    said = imports.from_hf(directory, tmp_path / 'ours')
    model = load(tmp_path / 'ours')
    rows = hf_directory.token_id_permutation(model.data.vocabulary, model.model.arch)
    assert hf_directory.compare_logits(theirs, model.params, model.model.arch, rows, 64).difference < 1e-5
    return said, model


@pytest.mark.parametrize('is_stated', [True, False], ids=['said to be tied', 'said to be apart'])
def test_an_output_matrix_of_its_own_comes_in_and_goes_out(tmp_path, is_stated):
    from safetensors.torch import load_file, save_file

    published(tmp_path / 'theirs', **PUBLISHED['grouped'])
    tensors = {}
    for path in sorted((tmp_path / 'theirs').glob('*.safetensors')):
        tensors |= load_file(path)
        path.unlink()
    (tmp_path / 'theirs' / 'model.safetensors.index.json').unlink()
    tensors['lm_head.weight'] = torch.randn(tensors['model.embed_tokens.weight'].shape) * 0.1
    save_file(tensors, tmp_path / 'theirs' / 'model.safetensors', metadata={'format': 'pt'})
    rewritten(tmp_path / 'theirs', lambda config: config.update(tie_word_embeddings=is_stated))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'theirs').eval()
    said, model = imported_logits(tmp_path / 'theirs', theirs, tmp_path)
    assert 'logits     differ by at most' in said and not model.model.arch.shared_embedding
    hf_directory.write(model.params, model.model.arch, model.data.vocabulary, 64, tmp_path / 'back')
    back = load_file(tmp_path / 'back' / 'model.safetensors')
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    # Its own matrix that is missing is a missing tensor.
    del tensors['lm_head.weight']
    save_file(tensors, tmp_path / 'theirs' / 'model.safetensors', metadata={'format': 'pt'})
    rewritten(tmp_path / 'theirs', lambda config: config.update(tie_word_embeddings=False))
    with pytest.raises(UserError, match=r'lm_head\.weight +missing'):
        imports.from_hf(tmp_path / 'theirs', tmp_path / 'other')


@pytest.mark.parametrize(
    ('change', 'theta', 'scale'),
    [
        (lambda config: config.pop('logit_scale'), 1e4, 0.0625),
        (lambda config: config.update(layer_norm_eps=1e-5, logit_scale=0.25), 1e4, 0.25),
        (lambda config: config['rope_parameters'].pop('rope_theta'), 5e5, 0.0625),
        (lambda config: config.pop('rope_parameters'), 5e5, 0.0625),
        (lambda config: (config.pop('rope_parameters'), config.update(transformers_version='4.44.0')), 1e4, 0.0625),
        (lambda config: (config.pop('rope_parameters'), config.update(rope_theta=7e5, logit_scale=0.5)), 7e5, 0.5),
        (
            lambda config: config.update(
                rope_parameters={'rope_type': 'linear', 'factor': 2.0}, rope_theta=3e4, tie_word_embeddings=True
            ),
            3e4,
            0.0625,
        ),
    ],
    ids=['no logit scale', 'another', 'no theta', 'no rope', 'no rope before 5', 'as before 5', 'linear'],
)
def test_what_a_config_lacks_is_the_default_of_its_version(tmp_path, change, theta, scale):
    published(tmp_path / 'theirs', **PUBLISHED['grouped'])
    rewritten(tmp_path / 'theirs', change)
    settings = transformers.AutoConfig.from_pretrained(tmp_path / 'theirs')
    if '4.44' in str(json.loads((tmp_path / 'theirs' / 'config.json').read_text())['transformers_version']):
        settings.rope_parameters = {'rope_type': 'default', 'rope_theta': 1e4}  # what Transformers 4 meant
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'theirs', config=settings).eval()
    said, model = imported_logits(tmp_path / 'theirs', theirs, tmp_path)
    assert (model.model.arch.rope_theta, model.model.arch.output_scale) == (theta, scale)
    assert 'logits     differ by at most' in said


def test_an_import_that_computes_something_else_leaves_nothing(tmp_path, monkeypatch):
    published(tmp_path / 'theirs', **PUBLISHED['grouped'])
    monkeypatch.setattr(hf_config, 'default_theta', lambda config, family: 123.0)
    rewritten(tmp_path / 'theirs', lambda config: config.pop('logit_scale'))
    real = hf_config.architecture
    monkeypatch.setattr(hf_config, 'architecture', lambda *args: dataclasses.replace(real(*args), logit_scale=0.07))
    with pytest.raises(UserError, match=r'logits differ by at most .* nothing was imported'):
        imports.from_hf(tmp_path / 'theirs', tmp_path / 'ours')
    assert not (tmp_path / 'ours').exists()


def test_shards_that_are_missing_and_files_that_are_no_directory_are_named(micro, tmp_path):
    published(tmp_path / 'theirs', **PUBLISHED['grouped'])
    shard = sorted((tmp_path / 'theirs').glob('model-*'))[1]
    shard.rename(tmp_path / 'theirs' / 'consolidated.safetensors')
    with pytest.raises(UserError, match=f'lacks {shard.name}, which model.safetensors.index.json names'):
        imports.from_hf(tmp_path / 'theirs', tmp_path / 'ours')
    (tmp_path / 'theirs' / 'consolidated.safetensors').rename(shard)
    (tmp_path / 'theirs' / 'consolidated.safetensors').write_bytes(b'the same again, in another layout')
    (tmp_path / 'a_file').write_text('')
    for directory in (tmp_path / 'a_file', tmp_path / 'a_file' / 'below'):
        with pytest.raises(UserError, match='a_file is a file, not a directory'):
            imports.from_hf(tmp_path / 'theirs', directory)
    imports.from_hf(tmp_path / 'theirs', tmp_path / 'ours')
    model, params = micro(vocab_size=BYTES.size)
    for directory in (tmp_path / 'a_file', tmp_path / 'a_file' / 'below'):
        with pytest.raises(UserError, match='a_file is a file, not a directory'):
            hf_directory.write(params, model.arch, BYTES, 64, directory)


def test_files_have_the_mode_of_the_umask_and_older_programs_find_theta(micro, tmp_path):
    model, params = micro(vocab_size=BYTES.size, rope_theta=2e5)
    old = os.umask(0o027)
    try:
        hf_directory.write(params, model.arch, BYTES, 64, tmp_path / 'out', shard_bytes=20_000)
    finally:
        os.umask(old)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / 'out').iterdir()} == {0o640}
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert config['rope_theta'] == config['rope_parameters']['rope_theta'] == 2e5


def test_a_tokenizer_json_is_a_vocabulary(tmp_path):
    published(tmp_path / 'theirs', **PUBLISHED['grouped'])
    vocabulary = vocabularies.load_vocabulary(str(tmp_path / 'theirs' / 'tokenizer.json'))
    assert isinstance(vocabulary, HuggingFace)
    for text in ('', 'the square of 3', ' 中文 \n'):
        assert vocabulary.decode(vocabulary.encode(text)) == text
    assert not {0, 1} & set(vocabulary.encode('the square of 3 <PAD>'))  # what begins and ends a text
    vocabulary.save(tmp_path / 'kept')
    (tmp_path / 'theirs' / 'chat_template.jinja').write_text('{{ messages }}')
    talking = HuggingFace(str(tmp_path / 'theirs' / 'tokenizer.json'))
    assert talking.chat_template.text == '{{ messages }}' and vocabulary.chat_template is None
    assert talking.fingerprint == vocabulary.fingerprint
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
    (tmp_path / 'theirs' / 'tokenizer.json').write_text('{"version": "1.0"}')
    with pytest.raises(UserError, match=r'tokenizer\.json is not a valid tokenizer\.json'):
        imports.from_hf(tmp_path / 'theirs', tmp_path / 'ours')
    (tmp_path / 'theirs' / 'tokenizer.json').unlink()
    with pytest.raises(UserError, match=r'has no tokenizer\.json\. Transformers writes one'):
        imports.from_hf(tmp_path / 'theirs', tmp_path / 'ours')
