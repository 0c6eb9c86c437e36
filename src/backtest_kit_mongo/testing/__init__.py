"""What a backend's author needs to prove a backend: the conformance suite (which needs pytest) and example payloads."""
