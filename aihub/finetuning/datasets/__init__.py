"""Data sets for fine-tuning: from a file that a client gave to examples, with every fault named by its line."""
