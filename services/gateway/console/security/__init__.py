"""Who may send console requests, and how many: origins, cookies, headers, forms, and limits."""
