"""What strategies call: one registry for each domain, the instance behind it, and what another implementation must offer."""
