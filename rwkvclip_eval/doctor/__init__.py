"""Checks this machine: devices, operator implementations and whether they agree."""
