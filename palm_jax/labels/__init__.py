"""Kinds of label of a text: how a label is encoded, decided from a head's scores, and evaluated."""
