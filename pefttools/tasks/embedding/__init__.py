"""Tasks that give texts vectors."""
