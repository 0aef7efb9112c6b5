"""Files, tables and annotated text, row by row, with the location of each. No TensorFlow."""
