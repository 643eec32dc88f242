"""What each request used and cost, and figures of the machine."""
