"""Training: the recipe's settings, batches, the loop on transformers' Trainer."""
