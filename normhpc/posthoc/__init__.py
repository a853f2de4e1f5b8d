"""What is computed from a trained network. Loads nothing here: what a user got wrong is told before torch is loaded."""
