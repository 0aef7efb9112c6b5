"""Text to batches: vocabularies, seqio tasks, the token cache. Nothing here knows the model."""
