"""Shrunk models of Transformers whose weights, biases and norms are all random."""

import pytest

from tests.support.published import write_tokenizer

torch = pytest.importorskip('torch', reason='the peers are not installed: pip install "palm_jax[hf]"')
transformers = pytest.importorskip('transformers')

ROWS = 320
SHRUNK = {
    'vocab_size': ROWS, 'hidden_size': 32, 'num_hidden_layers': 3, 'num_attention_heads': 4, 'num_key_value_heads': 2,
    'intermediate_size': 40, 'max_position_embeddings': 64, 'bos_token_id': 5, 'eos_token_id': None, 'pad_token_id': 0,
}  # fmt: skip
LLAMA3 = {
    'rope_type': 'llama3', 'rope_theta': 5e5, 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,
    'original_max_position_embeddings': 32,
}  # fmt: skip


def made(kind, changes, directory):
    """Makes a model of a kind (`Llama`), saves it in shards with a tokenizer, and returns it."""
    config = getattr(transformers, f'{kind}Config')(**(SHRUNK | changes))
    torch.manual_seed(0)
    model = getattr(transformers, f'{kind}ForCausalLM')(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape))
    model.save_pretrained(directory, max_shard_size='40KB')
    write_tokenizer(directory)
    return model
