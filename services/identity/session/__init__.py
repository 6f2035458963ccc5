"""SessionService: signing in and out, and the tokens of sessions."""
