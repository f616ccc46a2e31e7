"""Methods whose trained state is a product of small matrices for each layer."""
