"""Tests of what is installed and whole."""
