"""One table per family: an operator's name, and the function that writes it."""
