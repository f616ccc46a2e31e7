"""Methods whose layers share matrices or vectors, and train little else."""
