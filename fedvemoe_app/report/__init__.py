"""What a run leaves: journal, tables and pictures. Reads the journal alone."""
