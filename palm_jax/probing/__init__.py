"""Whether a model keeps its predictions when a text changes in ways that do not change its meaning."""
