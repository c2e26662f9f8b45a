"""Moving bytes: the pooled HTTP client and the event-stream parser."""
