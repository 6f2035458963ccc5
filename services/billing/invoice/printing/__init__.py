"""Prints documents: as a page of HTML, and as a PDF."""
