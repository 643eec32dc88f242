"""Bytes of a document to text, in a limited process."""
