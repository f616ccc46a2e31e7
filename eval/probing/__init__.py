"""What each method does on each family of architectures and base variant, found by trying."""
