"""What the operators' console reads: usage of all accounts, and the state of Groq's keys."""
