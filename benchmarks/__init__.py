"""Measured comparisons; each module here is a program that prints a table and can write JSON."""
