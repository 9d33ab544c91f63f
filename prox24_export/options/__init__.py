"""What options of every kind have in common: checks of their values, and files that give them."""
