"""Limits: how much may be used in a window of time, and what of it is used."""
