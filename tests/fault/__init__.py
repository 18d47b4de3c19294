"""One file per thing that breaks."""
