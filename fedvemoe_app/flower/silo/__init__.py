"""A silo's end: phases, memory, what it agrees to, and its side of every kind of sum.

The door imports from here before torch is loaded: no imports in this file.
"""
