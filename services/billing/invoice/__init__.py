"""Issues invoices over what accounts were charged, corrects them by credit notes, and prints them."""
