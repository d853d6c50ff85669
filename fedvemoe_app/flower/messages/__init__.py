"""The language of both ends: records, words, parts, and what both make of the settings."""
