"""Methods that train a few entries of each weight."""
