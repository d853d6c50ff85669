"""A run's whole state after each round, and how a run goes on from it."""
