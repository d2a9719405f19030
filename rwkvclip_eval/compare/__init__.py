"""Compares two runs sample by sample and says whether the second is worse. Needs no torch."""
