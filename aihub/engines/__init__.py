"""Local model cores behind Protocols. Heavy libraries are imported inside the engine that needs them."""
