"""What tasks have in common whose answer is one label of several."""
