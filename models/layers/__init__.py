"""Layers and operations that several models share."""
