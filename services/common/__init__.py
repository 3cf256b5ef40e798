"""Code shared by the services, free of domain terms such as keys, quotas and chats.

A module belongs here if at least two services use it and it would make sense in an unrelated product.
"""
