"""What travels: event contracts, the envelope, the one table of topics, and what is refused."""
