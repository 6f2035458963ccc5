"""Corrections of recorded usage: amendments, voids and what undoes them."""
