"""What turns hidden states into answers: heads as they are trained, and as a pool runs them, row by row."""
