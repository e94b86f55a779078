"""What runs in the process that infers: it imports nothing of ours but what is in this folder."""
