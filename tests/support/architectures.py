"""A PaLM small enough for a unit test."""

MICRO = {'vocab_size': 61, 'num_layers': 3, 'd_model': 24, 'num_heads': 4, 'head_dim': 8}
