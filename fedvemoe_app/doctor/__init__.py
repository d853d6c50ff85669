"""What a machine must have before a run: one small check each, with the fix where it fails."""
