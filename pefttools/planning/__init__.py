"""Memory of a training run, predicted from a model's configuration before anything is loaded."""
