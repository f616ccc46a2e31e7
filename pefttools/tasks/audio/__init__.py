"""Tasks whose models hear sounds."""
