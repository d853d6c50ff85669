"""Scores as sums: perplexity, ROUGE-L, exact match, negative transfer."""
