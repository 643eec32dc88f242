"""Which encoding a text file is in: what is declared, what is UTF-8, and what can be told for sure from the bytes."""
