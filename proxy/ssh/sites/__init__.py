"""Sites: SSH clients that dial in, and lead to what they can reach."""
