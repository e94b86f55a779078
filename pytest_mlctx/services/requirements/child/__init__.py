"""Code of the process that infers requirements: it imports nothing of ours outside this folder."""
