"""The role of operators: accounts that may use the operators' console, their log-ins, and what they do there."""
