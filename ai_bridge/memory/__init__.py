"""What a persona remembers of a person: found in what they wrote, merged, and found again."""
