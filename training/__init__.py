"""Support code for the trainers. A training step can be understood without it."""
