"""Integrity: whether what is stored still adds up."""
