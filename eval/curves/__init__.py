"""Curves of a score over the number of labelled rows: how many labels a method saves."""
