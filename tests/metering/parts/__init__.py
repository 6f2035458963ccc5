"""Calls that are settled in parts."""
