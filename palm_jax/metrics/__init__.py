"""Measures of predictions: of classes, numbers, tags and texts. NumPy, SciPy, scikit-learn, sacrebleu; no JAX."""
