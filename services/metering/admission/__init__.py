"""Lets calls through before the work and settles them after."""
