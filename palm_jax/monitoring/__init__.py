"""Models in use: what they were asked and answered, what users said to it, and whether the questions have changed."""
