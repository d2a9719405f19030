"""Datasets: the catalogue, the sources it reads from, and prompts."""
