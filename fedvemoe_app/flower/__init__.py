"""The Flower edge: the only package, with the two apps, that imports flwr."""
