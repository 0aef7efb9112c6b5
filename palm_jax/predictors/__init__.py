"""Kinds of task: how an input is read, predicted, decoded and turned into JSON, and which endpoint serves it."""
