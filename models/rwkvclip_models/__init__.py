"""RWKV-CLIP towers, the Bi-WKV operator and checkpoint loading."""
