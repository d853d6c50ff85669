"""The settings in groups; ``config`` puts them together."""
