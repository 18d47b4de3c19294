"""What an API server knows of the nodes: who lives, where chunks belong, and how they are moved."""
