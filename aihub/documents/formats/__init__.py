"""One module per format: a function from bytes or characters to text. Import them only where untrusted files may be read."""
