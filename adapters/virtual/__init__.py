"""Methods that put virtual tokens before a text: trained embeddings, or keys and values."""
