"""perfplan: an analytical performance-model calculator and planner for training and serving language models."""
