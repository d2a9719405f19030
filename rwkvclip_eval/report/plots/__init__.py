"""The pictures of the report."""

from rwkvclip_models.moved import forward

forward(__name__)
