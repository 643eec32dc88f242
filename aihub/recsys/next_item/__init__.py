"""What comes next in a sequence of items."""
