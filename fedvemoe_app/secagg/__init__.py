"""Secure aggregation as pure state machines: bytes in, bytes out; a server learns sums alone."""
