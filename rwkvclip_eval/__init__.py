"""Evaluation of RWKV-CLIP, CLIP and ALIP checkpoints."""
