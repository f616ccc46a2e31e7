"""Continual learning: stages that are learned one after the other, and what is forgotten of the earlier ones."""
