"""A Hugging Face directory as Cohere publishes it: shrunk, with random weights."""

import pytest

torch = pytest.importorskip('torch', reason='the peers are not installed: pip install "palm_jax[hf]"')
transformers = pytest.importorskip('transformers')

PUBLISHED = {  # the shapes of CohereForAI/c4ai-command-r-v01 and aya-23-8B, shrunk
    'command-r': {'num_attention_heads': 8, 'num_key_value_heads': 8, 'intermediate_size': 176, 'rope_theta': 8e6},
    'aya-23-8b': {'num_attention_heads': 4, 'num_key_value_heads': 1, 'intermediate_size': 176, 'rope_theta': 1e4},
    'grouped': {'num_attention_heads': 8, 'num_key_value_heads': 2, 'intermediate_size': 96, 'rope_theta': 1e4},
}


def write_tokenizer(directory):
    """Writes a tokenizer with BOS 5 and EOS as the last id of about 275, and returns it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    names = ['<PAD>', '<UNK>', '<CLS>', '<SEP>', '<MASK_TOKEN>', '<BOS_TOKEN>']
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ['the square of 3 is 9'] * 9, trainers.BpeTrainer(special_tokens=names, initial_alphabet=alphabet)
    )
    tokenizer.add_special_tokens(['<|END_OF_TURN_TOKEN|>'])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token='<BOS_TOKEN>',
        eos_token='<|END_OF_TURN_TOKEN|>',
        pad_token='<PAD>',
        unk_token='<UNK>',
    )
    fast.save_pretrained(directory)
    return fast


def published(directory, rope_theta=1e4, rows=320, **changes):
    """Writes a Cohere with random weights and a tokenizer, see `write_tokenizer`; returns both."""
    fast = write_tokenizer(directory)
    config = transformers.CohereConfig(
        vocab_size=rows,
        hidden_size=64,
        num_hidden_layers=3,
        logit_scale=0.0625,
        rope_parameters={'rope_type': 'default', 'rope_theta': rope_theta},
        bos_token_id=5,
        eos_token_id=fast.eos_token_id,
        pad_token_id=0,
        max_position_embeddings=64,
        **changes,
    )
    torch.manual_seed(0)
    model = transformers.CohereForCausalLM(config).eval()
    model.save_pretrained(directory, max_shard_size='100KB')
    return model, fast
