"""The model manager: what is installed and whole. Engines receive a verified local folder and nothing else."""
