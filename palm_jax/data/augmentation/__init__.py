"""Further training examples from those that there are: data that wraps data."""
