"""Further training texts that models or other programs make of those that there are."""
