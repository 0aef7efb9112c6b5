"""Why a model predicts what it predicts: what each word of an input contributes to an output."""
