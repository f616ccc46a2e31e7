"""Methods that rotate or reflect weights."""
