"""Image-text pairs for training."""
