"""A close look at what a run learns from: the batch of any step token by token, and examples in order of trouble."""
