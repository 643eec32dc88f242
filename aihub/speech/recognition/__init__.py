"""Vosk in processes of its own: one per model in use, which forks one for each file part and live stream."""
