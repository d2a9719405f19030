"""The Bi-WKV operator in its implementations."""

from rwkvclip_models.ops.bi_wkv6 import ImplementationStatus, bi_wkv6, check, implementations, resolve

__all__ = ["ImplementationStatus", "bi_wkv6", "check", "implementations", "resolve"]
