"""Remote chat providers behind the `ChatEngine` Protocol."""
