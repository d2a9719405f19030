"""How training moves the weights."""
