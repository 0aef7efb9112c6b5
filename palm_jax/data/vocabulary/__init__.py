"""Text to token ids and back: vocabularies, special tokens, fitting. No TensorFlow."""
