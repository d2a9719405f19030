"""Layouts of training data: what each writes into an index, and how it is read back."""
