"""How a computation runs: number formats, devices, processes, optimizers, recomputation. Knows no model."""
