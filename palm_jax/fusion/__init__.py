"""One model out of several that were fine-tuned from the same base."""
