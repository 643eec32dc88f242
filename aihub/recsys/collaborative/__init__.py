"""Recommendations by matrix factors and NeuMF."""
