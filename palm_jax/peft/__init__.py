"""Parameter-efficient fine-tuning: methods that attach to a model which does not know them."""
