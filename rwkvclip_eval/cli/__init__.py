"""The command line: one file a group of commands."""

from rwkvclip_models.moved import forward

forward(__name__)
