"""Reporters: measurements of a model on held-out data, and reports of finished runs."""
