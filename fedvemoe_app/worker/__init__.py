"""A resident process that answers for another: it keeps in memory what is dear to load.

Bytes in, bytes out: it knows neither Flower nor models, only the name of a function to call.
"""
