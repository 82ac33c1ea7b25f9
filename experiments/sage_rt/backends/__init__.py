"""Where replies come from: an HTTP endpoint, a Flax model in this process, a function, a script."""
