"""The server's end: a run, its strategy, and what is written down."""
