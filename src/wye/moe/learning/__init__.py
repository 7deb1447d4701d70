"""Training and measuring models with routed layers."""
