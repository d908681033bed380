"""Weights that others have published: an index of them, a cache of converted files, and the converters."""
