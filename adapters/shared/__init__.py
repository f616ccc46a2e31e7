"""Methods whose layers share matrices or vectors, and that train little else."""
