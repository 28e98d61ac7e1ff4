"""What is asked: studies, and the runs and cells that they come to."""
