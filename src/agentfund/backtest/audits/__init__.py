"""What sees the future, and what decides otherwise the next time."""
