"""Image-text pairs for training."""

from rwkvclip_models.moved import forward

forward(__name__)
