"""The command line: ``fedvemoe ...``."""
