"""Mechanics that every service needs and none of them owns: no word of the domain belongs here."""
