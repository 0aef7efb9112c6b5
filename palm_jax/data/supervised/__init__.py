"""Tables as batches for fine-tuning: labels, tags, text to text, conversations. No TensorFlow."""
