"""Metrics of predicted classes, numbers, tags and texts. NumPy, SciPy, scikit-learn, sacrebleu; no JAX."""
