"""The authorization matrix: who may call what on whose, made from the descriptors, asked of a running installation."""
