"""Sites: SSH clients that log in to kubemux, and open connections to the hosts that they can reach."""
