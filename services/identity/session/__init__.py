"""SessionService: signing in and out, and the tokens of those who did."""
