"""What a run tells while it lasts: metrics, TensorBoard events, the learning curve, progress."""
