"""The Bi-WKV operator."""
