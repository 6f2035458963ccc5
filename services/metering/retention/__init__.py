"""How long usage is kept, and how it leaves: whole months after their export, and the texts of a person."""
