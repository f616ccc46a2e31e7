"""Memory of a training, predicted from a model's configuration, before anything is loaded."""
