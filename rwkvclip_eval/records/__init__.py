"""What a number means, and the run directory that keeps it. Needs no torch."""
