"""What features mean: definitions, the tile mathematics, and the stores they are read from."""
