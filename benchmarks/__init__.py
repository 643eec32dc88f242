"""Side-by-side measurements: each compares the hub with a bare peer in the same run and prints the ratio."""
