"""What makes answers of hidden states: heads as they are trained, and as a pool runs them, row by row."""
