"""Tasks whose models read a text, or a pair of texts: labels, tags, numbers, choices, answers."""
