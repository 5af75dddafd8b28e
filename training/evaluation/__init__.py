"""What a trained policy is worth: returns on fresh episodes, and by trial within meta-episodes."""
