"""Fine-tuning of local chat models with low-rank adapters (LoRA, QLoRA): data sets, jobs, adapters."""
