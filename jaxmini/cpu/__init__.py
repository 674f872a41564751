"""CPU: what makes JAX faster on a processor. This room knows nothing of the rest of jaxmini."""
