"""Slow float64 NumPy twins, written from the equations."""
