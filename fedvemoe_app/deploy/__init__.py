"""A consortium on one machine: keys, data of each silo, and Flower's programs as processes."""
