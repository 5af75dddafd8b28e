"""Looking inside: what training did to a memory, and what a world model foresees."""
