"""Metrics as modules of the evaluate library, in files of our own because no hub may be reachable."""
