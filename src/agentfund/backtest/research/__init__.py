"""Many runs at once: sweeps, walks forward, clusters, portfolios."""
