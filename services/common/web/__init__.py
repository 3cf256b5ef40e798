"""What the web pages of the users' console and of the operators' console share: requests, forms, headers, style."""
