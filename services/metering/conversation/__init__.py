"""Keeps conversations and their messages, and meters the messages that took work."""
