"""What a machine recorded, as columns, and what they say: where the time went and why it idled."""
