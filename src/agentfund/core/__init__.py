"""The machine: what decides, gates, records and stops. No I/O, no third party but pydantic."""
