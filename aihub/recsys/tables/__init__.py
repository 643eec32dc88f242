"""Trainings and interactions in PostgreSQL."""
