"""Methods that train vectors: biases, norms, embeddings of tokens."""
