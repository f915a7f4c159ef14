"""Contract suites, fakes, and a pytest plugin for those who build on agentfund."""
