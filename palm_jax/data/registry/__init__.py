"""The seqio registry: tasks, mixtures and their evaluation. The only folder that may import seqio and TensorFlow."""
