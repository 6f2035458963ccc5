"""Limits: what they count, refuse and give back."""
