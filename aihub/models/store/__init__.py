"""Which models are on the disk and whole. Engines receive a verified local folder and nothing else."""
