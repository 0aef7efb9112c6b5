"""gin that does not bite: strict loading, sources of values, a record in MODEL_DIR."""
