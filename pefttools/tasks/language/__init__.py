"""Tasks whose models write, or fill in, texts: causal, masked and encoder-decoder language models."""
