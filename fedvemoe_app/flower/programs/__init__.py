"""Flower's own programs, and a grid without them."""
