"""Grids that return one reply, the sum: plain, secure, noised."""
