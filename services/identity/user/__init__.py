"""UserService: the people who own organizations and keys."""
