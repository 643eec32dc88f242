"""Chat models that other services serve, as `ChatEngine`s: OpenAI and servers like it, GitHub Models, Ollama. Imports no Ray."""
