"""Tasks: reading a bank, giving tasks to silos, and turning instances into batches."""
