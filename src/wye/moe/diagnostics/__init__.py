"""What routing looks like: load, sparsity, specialisation, and how it changes."""
