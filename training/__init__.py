"""What the trainers stand on. Nobody needs it to understand a training step."""
