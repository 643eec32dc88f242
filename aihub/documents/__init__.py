"""From an uploaded file to text and chunks, inside a limited child process."""
