"""Exports: usage of a range of time as a file, piece by piece, with a manifest."""
