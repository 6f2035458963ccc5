"""Grants credits with terms, and says what is left of them and which of them charges used."""
