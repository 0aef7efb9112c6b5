"""Active learning: which texts without labels to label next."""
