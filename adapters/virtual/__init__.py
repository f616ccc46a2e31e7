"""Methods whose tokens stand before a text: trained embeddings, or keys and values."""
