"""Inspection: files looked at by a person: what the commands ``benchmark`` and ``parity`` show."""
