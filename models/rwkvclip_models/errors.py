"""Errors a user can mend. Their text is the whole message: what was expected, what came, what to do."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input of any kind; the command line prints the text alone and exits with `exit_code`."""

    exit_code = 2


class CheckpointError(UserError):
    """A checkpoint that cannot be read, is unsafe to read, or does not fit its configuration."""


class ConfigError(UserError):
    """A model configuration with a missing, unknown or impossible value."""
