"""Recorded episodes: files of them, how they are made, and learning from them."""
