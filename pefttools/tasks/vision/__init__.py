"""Tasks whose models read images, alone or with texts."""
