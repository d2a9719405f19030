"""One file a form of the report."""
