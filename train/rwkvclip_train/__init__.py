"""Training of RWKV-CLIP and CLIP."""
