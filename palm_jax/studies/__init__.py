"""Studies of many runs: ablations and hyperparameter searches over gin bindings."""
