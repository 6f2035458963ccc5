"""Invariants: rules that what is stored must keep, each a statement that finds what breaks it."""
