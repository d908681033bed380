"""Fetch NYU Depth V2 and bring it into the layout that the loader reads."""
