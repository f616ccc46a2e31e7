"""What only a card can show, a file per question; `benchmarks/gpu.py` runs them."""
