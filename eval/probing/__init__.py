"""What each method does on each family of architectures and each variant, found by trying."""
