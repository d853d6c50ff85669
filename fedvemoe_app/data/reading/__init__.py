"""Files and rows of every layout a bank may have, read and checked."""
