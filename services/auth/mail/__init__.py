"""E-mail: the queue, its messages and SMTP."""
