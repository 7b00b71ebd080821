"""The contract: what the services share, and nothing else."""
