"""What the commands of tasks.py start."""
