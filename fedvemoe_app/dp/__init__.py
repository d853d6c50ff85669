"""Differential privacy as steps on named arrays: clip, noise, guard. No model, file or network."""
