"""What two or more services need and what knows no domain word: no key, no quota, no chat.

A module is admitted here when two services use it and when its text would make sense in a product of another kind.
"""
