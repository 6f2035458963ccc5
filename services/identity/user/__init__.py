"""UserService: people, what they sign in with, and their configurations."""
