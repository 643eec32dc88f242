"""Engines of remote services: OpenAI-compatible ones, Ollama, GitHub Models."""
