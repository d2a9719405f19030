"""Adapters: one class per model family behind the `Encoder` protocol."""
