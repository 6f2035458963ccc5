"""Events out: what changed, written with the change itself and sent to those who asked for it, at least once."""
