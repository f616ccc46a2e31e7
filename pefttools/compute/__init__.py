"""How a computation runs: number formats, devices, processes, optimizers, what is computed again. Knows no model."""
