"""What is trained besides the loss of a task, one method per file: a loss that wraps a loss."""
