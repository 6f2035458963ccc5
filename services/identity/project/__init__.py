"""ProjectService: projects and their members."""
