"""A network on disk: its contract, its weights, and other forms of it."""
