"""Methods that train a few coefficients of a transform of the change of a weight."""
