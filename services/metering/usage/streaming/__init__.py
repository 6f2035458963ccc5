"""Streams of usage: what is recorded as it comes, and what was recorded as it is watched."""
