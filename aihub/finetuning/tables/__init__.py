"""Fine-tuning jobs in PostgreSQL."""
