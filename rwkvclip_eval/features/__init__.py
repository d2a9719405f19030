"""The feature store, and the engines that encode for it: encoder × split → named arrays on disk."""

from rwkvclip_models.moved import forward

forward(__name__)
