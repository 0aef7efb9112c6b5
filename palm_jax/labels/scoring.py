"""How right a single prediction is, for comparisons of models on the same examples."""

from __future__ import annotations

from typing import Any

from palm_jax.labels.label_kind import LabelKind


def score(kind: LabelKind, predicted: Any, label: Any) -> float:
    """Return 1 if a prediction names the classes of the label, else 0; of a number minus the absolute error.

    Args:
      kind: kind of label.
      predicted: `predicted` of `LabelKind.to_json`.
      label: label as a table or JSON has it: a name, names or a number.
    """
    if not kind.has_classes:
        return -abs(float(predicted) - float(label))
    first, second = (set(kind.class_names(tuple(x) if isinstance(x, list) else x)) for x in (predicted, label))
    return float(first == second)
