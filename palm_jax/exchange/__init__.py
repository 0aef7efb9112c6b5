"""Weights and vocabularies in the formats of other projects."""
