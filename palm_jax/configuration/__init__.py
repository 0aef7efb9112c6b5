"""Strict gin configuration: loading, values with their sources, and the record in MODEL_DIR."""
