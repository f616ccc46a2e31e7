"""Active learning: which rows to label next, in a simulation over labelled rows or with a person at a terminal."""
