"""Measures speed: of operators, of towers, side by side."""
