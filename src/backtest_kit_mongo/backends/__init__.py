"""Where records live. `ports.py` is the contract; each backend is one file and knows no domain by name."""
