"""How tasks are matched to categories and named for silos; the front door is ``data.assign``."""
